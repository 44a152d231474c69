"""`coformerc inspect`, `validate`, `run` and `bench`: what can be done with a build."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from coformer_compiler.cli.words import add_command, print_result
from coformer_runtime.errors import CoformerError


def add_outputs(commands: Any) -> None:
    """Add `inspect`, `validate`, `run` and `bench`."""
    inspect = add_command(commands, "inspect", _inspect, "describe a build, bundle, policy, graph or checkpoint")
    inspect.add_argument(
        "path", type=Path, metavar="PATH", help="a folder or file that the toolchain wrote, or a checkpoint"
    )
    validate = add_command(
        commands, "validate", _validate, "check a build: files, graphs, numerics, the assembled system"
    )
    validate.add_argument("out", type=Path, metavar="OUT", help="output folder of a build")
    validate.add_argument(
        "--old-python", type=Path, metavar="PYTHON", help="a Python 3.6 with onnx 1.8.1 (default: python3.6 on PATH)"
    )
    validate.add_argument("--junit", type=Path, metavar="FILE", help="also write a JUnit XML file")
    run = add_command(commands, "run", _run, "answer an input with a cluster of local processes")
    run.add_argument("out", type=Path, metavar="OUT", help="output folder of a build")
    given = run.add_mutually_exclusive_group(required=True)
    given.add_argument(
        "--input",
        type=Path,
        metavar="FILE",
        help="a .npy file of what the members take, an image, or a .txt file of one text a line (pairs with a tab)",
    )
    given.add_argument("--text", metavar="TEXT", help="a text, for members that read texts; a pair with a tab between")
    run.add_argument(
        "--max-tokens", type=int, metavar="N", help="continue or answer the text by at most N tokens, as they come"
    )
    run.add_argument("--temperature", type=float, default=0.0, metavar="T", help="of the draws; 0: the likeliest token")
    run.add_argument("--top-k", type=int, default=0, metavar="K", help="draw among the K likeliest tokens")
    run.add_argument("--top-p", type=float, default=1.0, metavar="P", help="draw among the likeliest of this share")
    run.add_argument("--seed", type=int, metavar="N", help="of the draws")
    run.add_argument("--truncate", action="store_true", help="cut texts that are too long")
    run.add_argument("--min-members", type=int, metavar="K", help="answer with at least K members (default: all)")
    bench = add_command(commands, "bench", _bench, "measure a build's latency on this machine")
    bench.add_argument("out", type=Path, metavar="OUT", help="output folder of a build")


def _inspect(options: argparse.Namespace) -> int:
    from coformer_compiler.commands.inspect import inspect_path
    from coformer_compiler.commands.show import inspect_text

    found = inspect_path(options.path)
    if found["kind"] == "build" and not options.json:
        from coformer_compiler.report.check import report_from_json
        from coformer_compiler.report.table import print_table

        print_table(report_from_json(found["report"]))
        return 0
    print_result(found, options.json, lambda: inspect_text(found, options.path))
    return 0


def _validate(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from coformer_compiler.commands.show import checks_text
    from coformer_compiler.commands.validate import validate_build, write_junit

    checks = validate_build(options.out, options.old_python)
    if options.junit is not None:
        write_junit(options.junit, checks)
    failed = any(check.failure is not None for check in checks)
    found = {"ok": not failed, "checks": [asdict(check) for check in checks]}
    print_result(found, options.json, lambda: checks_text(checks, options.out))
    return 1 if failed else 0


def _run(options: argparse.Namespace) -> int:
    if options.max_tokens is not None:
        return _generate(options)
    from coformer_compiler.commands.run import run_build
    from coformer_compiler.commands.show import answers_text

    found = run_build(
        options.out, options.input, text=options.text, truncate=options.truncate, min_members=options.min_members
    )
    print_result(found, options.json, lambda: answers_text(found))
    return 0


def _generate(options: argparse.Namespace) -> int:
    if options.text is None:
        raise CoformerError("there is no prompt", "--max-tokens", "give it with --text")

    from coformer_compiler.commands.generate import generate_text
    from coformer_runtime.sampling import Sampling

    def say(piece: str) -> None:
        if not options.json:
            print(piece, end="", flush=True)

    sampling = Sampling(options.temperature, options.top_k, options.top_p, options.seed)
    found = generate_text(
        options.out,
        options.text,
        options.max_tokens,
        sampling,
        say,
        truncate=options.truncate,
        min_members=options.min_members,
    )
    print_result(found, options.json, lambda: "\n(the text was cut)" if "cut_texts" in found else "")
    return 0


def _bench(options: argparse.Namespace) -> int:
    from coformer_compiler.commands.bench import bench_build
    from coformer_compiler.commands.show import bench_text

    found = bench_build(options.out)
    print_result(found, options.json, lambda: bench_text(found))
    return 0
