"""Paths in a configuration are relative to the file that names them."""

from __future__ import annotations

from pathlib import Path


def absolute(path: Path, folder: Path) -> Path:
    """A path that a file in `folder` names."""
    return folder / path.expanduser()


def absolute_source(source: str, folder: Path) -> str:
    """`KIND:PATH` with such a path."""
    kind, colon, location = source.partition(":")
    return f"{kind}:{absolute(Path(location), folder)}" if colon and location else source
