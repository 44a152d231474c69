"""Reads TOML on every supported Python."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from coformer_runtime.errors import CoformerError


def read_toml(path: Path, where: str) -> dict[str, Any]:
    """The content of a TOML file.

    Raises:
        CoformerError: naming `where`: the file cannot be read, or is no TOML.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        content: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CoformerError(
            f"cannot be read ({error.strerror})", where, "give the path of a readable TOML file"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CoformerError(f"is no TOML ({error})", where, "mend the syntax") from error
    return content
