"""The command `coformerc`. Its modules parse and print; the work is in `compile` and `commands`."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from coformer_compiler import __version__
from coformer_compiler.cli.building import add_building
from coformer_compiler.cli.fleet import add_fleet
from coformer_compiler.cli.interrupts import Interrupts
from coformer_compiler.cli.outputs import add_outputs
from coformer_compiler.cli.profiling import add_profiling
from coformer_compiler.cli.targets import add_targets
from coformer_compiler.cli.words import print_json
from coformer_runtime.errors import CoformerError

INTERNAL_ERROR = 3
FULL_OR_FORBIDDEN = (errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.ENOSPC, errno.EPERM, errno.EROFS)


# In the order of `coformerc --help`.
GROUPS = (add_building, add_targets, add_profiling, add_outputs, add_fleet)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    The exit code is 0 fine, 1 a check failed, 2 the user's mistake, 3 our bug (see the report file), 130 interrupted.
    With `--json`, a failure is an object on the standard output as well as a line on the standard error.
    """
    options = parser().parse_args(arguments)
    with Interrupts() as interrupts:
        try:
            return int(options.run(options))
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 (exit code 3 is for what nobody foresaw)
            if interrupts.came or isinstance(error, KeyboardInterrupt):
                print("interrupted; the same command goes on from here", file=sys.stderr)
                return 130
            return _failed(error, options.json)


def _failed(error: Exception, as_json: bool) -> int:
    """Tell of an error, and return the exit code."""
    if isinstance(error, CoformerError):
        return _refused(error, as_json)
    if isinstance(error, BrokenPipeError):
        # Whoever read has closed the pipe; nothing more can be said, not even by the interpreter when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if isinstance(error, OSError) and error.errno in FULL_OR_FORBIDDEN:
        what, where = f"cannot be written ({error.strerror})", f"file {error.filename or 'unknown'}"
        mend = "make room or get the right to write there, then run the same command again"
        return _refused(CoformerError(what, where, mend), as_json)
    text = f"{type(error).__name__}: {error}".strip(": ")
    print(f"error: internal error ({text}); please send us {_bug_report(error)}", file=sys.stderr)
    return INTERNAL_ERROR


def _refused(error: CoformerError, as_json: bool) -> int:
    print(f"error: {error}", file=sys.stderr)
    if as_json:
        print_json({"error": {"what": error.what, "where": error.where, "mend": error.mend}})
    return error.exit_code


def parser() -> argparse.ArgumentParser:
    """The parser of all subcommands."""
    top = argparse.ArgumentParser(
        prog="coformerc", description="Compiles one transformer into one small model per device."
    )
    top.add_argument("--version", action="version", version=f"coformerc {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for add in GROUPS:
        add(commands)
    return top


def _bug_report(error: Exception) -> Path:
    """Write what we need to find the bug, and return the path."""
    import platform
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile(
        "w", prefix="coformerc-bug-", suffix=".txt", encoding="utf-8", delete=False
    ) as file:
        file.write(f"coformerc {__version__}, Python {platform.python_version()}, {platform.platform()}\n")
        file.write(f"arguments: {sys.argv[1:]}\n\n")
        file.write("".join(traceback.format_exception(error)))
    return Path(file.name)
