"""`coformerc targets` and `coformerc legalize`: what targets take, and graphs made fit for one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from coformer_compiler.cli.words import add_command, print_result
from coformer_runtime.errors import CoformerError


def add_targets(commands: Any) -> None:
    """Add `targets` and `legalize`."""
    targets = add_command(commands, "targets", _targets, "list the targets, or print all that is known of one")
    targets.add_argument("name", nargs="?", help="a target")
    targets.add_argument("--target-file", type=Path, metavar="FILE", help="a target of your own, in place of a name")
    legalize = add_command(
        commands, "legalize", _legalize, "lower any ONNX graph to what a target takes, or say why not"
    )
    legalize.add_argument("graph", type=Path, metavar="GRAPH.onnx", help="a graph of opset 24 or lower")
    legalize.add_argument("--target", metavar="NAME", help="what it is lowered for")
    legalize.add_argument("--target-file", type=Path, metavar="FILE", help="a target of your own, in place of --target")
    legalize.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help="the legal graph")
    legalize.add_argument("--precision", metavar="NAME", help="float32, float16 or int8 (default: the target's first)")
    legalize.add_argument(
        "--shape", action="append", default=[], metavar="INPUT=1,3,224,224", help="shape of a dynamic input; repeatable"
    )


def _targets(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from coformer_compiler.commands.show import target_text, targets_text
    from coformer_targets import load_target, load_target_file, target_names

    if options.name is not None and options.target_file is not None:
        raise CoformerError("two targets are named", "targets", "give one of NAME and --target-file")
    if options.name is not None or options.target_file is not None:
        found = load_target(options.name) if options.name is not None else load_target_file(options.target_file)
        target = asdict(found)
        print_result(target, options.json, lambda: target_text(target))
    else:
        targets = [load_target(name) for name in target_names()]
        print_result([asdict(target) for target in targets], options.json, lambda: targets_text(targets))
    return 0


def _legalize(options: argparse.Namespace) -> int:
    from coformer_compiler.commands.legalize import legalize_graph, legalize_text, shapes_from

    found = legalize_graph(
        options.graph,
        options.target,
        options.out,
        target_file=options.target_file,
        precision=options.precision,
        shapes=shapes_from(options.shape),
    )
    print_result(found, options.json, lambda: legalize_text(found))
    return 0
