"""What the subcommands share: how one is added to the parser, and how results and progress are printed."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from coformer_runtime.errors import CoformerError


def add_command(commands: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    """A subcommand that `run(options) -> exit code` carries out; `--json` comes with it."""
    made: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    made.add_argument("--json", action="store_true", help="print JSON")
    made.set_defaults(run=run)
    return made


def key_values(given: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs that `--model-option KEY=VALUE` gave."""
    pairs = [pair.partition("=") for pair in given]
    for key, equals, _ in pairs:
        if not equals:
            raise CoformerError(f"'{key}' has no value", "--model-option", "write KEY=VALUE")
    return [(key, value) for key, _, value in pairs]


def print_result(value: Any, as_json: bool, text: Callable[[], str]) -> None:
    """Print the value as JSON, or else its text."""
    if as_json:
        print_json(value)
    else:
        print(text())


def print_json(value: Any) -> None:
    """Print a value, keys sorted."""
    print(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False))


def say(text: str) -> None:
    """Tell of progress, where it is in nobody's pipe."""
    print(text, file=sys.stderr)
