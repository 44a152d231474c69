"""The command `coformerc`. It parses and prints; the work is in `compile` and `commands`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coformer_compiler import __version__
from coformer_runtime.errors import CoformerError

INTERNAL_ERROR = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    The exit code is 0 fine, 1 a check failed, 2 the user's mistake, 3 our bug (see the report file).
    """
    options = parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except CoformerError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    except Exception as error:  # noqa: BLE001 (exit code 3 is for what nobody foresaw)
        print(f"error: internal error: {error}; the report is in {_bug_report(error)}", file=sys.stderr)
        return INTERNAL_ERROR


def parser() -> argparse.ArgumentParser:
    """The parser of all subcommands."""
    top = argparse.ArgumentParser(
        prog="coformerc", description="Compiles one transformer into one small model per device."
    )
    top.add_argument("--version", action="version", version=f"coformerc {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_build(commands)
    targets = _command(commands, "targets", _targets, "list the targets, or print all that is known of one")
    targets.add_argument("name", nargs="?", help="a target")
    inspect = _command(commands, "inspect", _inspect, "describe a build, bundle, policy, graph or checkpoint")
    inspect.add_argument("path", type=Path)
    validate = _command(commands, "validate", _validate, "check a build: files, graphs, numerics, the assembled system")
    validate.add_argument("out", type=Path)
    validate.add_argument("--junit", type=Path, metavar="FILE", help="also write a JUnit XML file")
    run = _command(commands, "run", _run, "answer an input with a cluster of local processes")
    run.add_argument("out", type=Path)
    run.add_argument(
        "--input", type=Path, required=True, metavar="FILE", help="a .npy file of uint8 pixels, or an image"
    )
    run.add_argument("--min-members", type=int, metavar="K", help="answer with at least K members (default: all)")
    bench = _command(commands, "bench", _bench, "measure a build's latency on this machine")
    bench.add_argument("out", type=Path)
    return top


def _command(commands: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    made.add_argument("--json", action="store_true", help="print JSON")
    made.set_defaults(run=run)
    return made


def _add_build(commands: Any) -> None:
    build = _command(commands, "build", _build, "compile a model for a list of devices")
    build.add_argument("config", type=Path, nargs="?", metavar="CONFIG.toml")
    build.add_argument("-o", "--out", type=Path, metavar="OUT", help="output folder (default: build/NAME)")
    build.add_argument(
        "--target", action="append", default=[], metavar="NAME", help="a device of this target; repeatable"
    )
    build.add_argument("--model", metavar="LIBRARY:NAME", help="the teacher, such as timm:deit_base_patch16_224")
    build.add_argument("--checkpoint", type=Path, metavar="FILE", help="its weights: safetensors, pth or a hub folder")
    build.add_argument("--weights", choices=("file", "hub", "random"), help="where weights come from (default: file)")
    build.add_argument("--model-option", action="append", default=[], metavar="KEY=VALUE", help="constructor option")
    build.add_argument("--data", metavar="KIND:PATH", help="digits, imagefolder:DIR, npz:FILE or cifar100:DIR")
    build.add_argument("--strategy", help="how the teacher is shared out (default: proportional)")
    build.add_argument("--steps", type=int, help="training steps per member and in the joint phase; 0 trains nothing")
    build.add_argument("--seed", type=int)
    build.add_argument("--resume", action="store_true", help="go on with an earlier build; refuse to begin a new one")
    build.add_argument(
        "--dry-run", action="store_true", help="print policy, costs, what would be built and what is cached"
    )


def _build(options: argparse.Namespace) -> int:
    from coformer_compiler.config import Overrides, read_config

    pairs = [pair.partition("=") for pair in options.model_option]
    for key, equals, _ in pairs:
        if not equals:
            raise CoformerError(f"'{key}' has no value", "--model-option", "write KEY=VALUE")
    overrides = Overrides(
        options.model,
        options.checkpoint,
        options.weights,
        tuple((key, value) for key, _, value in pairs),
        options.data,
        tuple(options.target),
        options.strategy,
        options.seed,
        options.steps,
    )
    config = read_config(options.config, overrides)
    stem = options.config.stem if options.config else config.model.name.partition(":")[2]
    out: Path = options.out or Path("build") / stem
    if options.resume and not (out / "cache").is_dir():
        raise CoformerError("there is nothing to resume", f"output folder {out}", "leave --resume away to begin")
    if options.dry_run:
        return _dry_run(config, out, options.json)

    from coformer_compiler.artifact import first_process
    from coformer_compiler.compile import build
    from coformer_compiler.progress import RichProgress, SilentProgress
    from coformer_compiler.report.table import print_table

    if first_process():
        with RichProgress() as progress:
            built = build(config, out, progress)
    else:
        build(config, out, SilentProgress())
        return 0
    if options.json:
        _print_json(built.report.to_json())
    elif built.changed:
        print_table(built.report)
        print(f"\nbundles: {out / 'bundles'}\nreport:  {out / 'report.html'}")
    else:
        print_table(built.report)
        print(f"\nnothing to do: all {len(built.report.stages)} stages are cached in {out}")
    return 0


def _dry_run(config: Any, out: Path, as_json: bool) -> int:
    from coformer_compiler.commands.dry_run import dry_run

    found = dry_run(config, out)
    if as_json:
        _print_json(found)
        return 0
    rows = [
        (
            m["device"] + (" (central)" if m["central"] else ""),
            m["target"],
            m["layers"],
            m["embed"],
            m["heads"],
            m["neurons"],
            f"{m['flops'] / 1e6:,.2f}",
            f"{m['flops_share']:.1%}",
            f"{m['params'] / 1e3:,.0f}",
            f"{m['memory_mb']:,.0f} of {m['memory_limit_mb']:,.0f}",
        )
        for m in found["members"]
    ]
    columns = (
        "device",
        "target",
        "layers",
        "embed",
        "heads",
        "neurons",
        "MFLOPs",
        "of teacher",
        "k params",
        "memory MB",
    )
    _print_table(f"policy by strategy '{found['strategy']}'", columns, rows)
    _print_table("stages", ("stage", "state"), list(found["stages"].items()))
    for note in found["notes"]:
        print(f"note: {note}")
    return 0


def _targets(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from coformer_targets import load_target, target_names

    if options.name is not None:
        target = asdict(load_target(options.name))
        if options.json:
            _print_json(target)
            return 0
        sources = target.pop("sources")
        _print_table(
            options.name, ("field", "value", "source"), [(k, v, sources.get(k, "")) for k, v in target.items()]
        )
        return 0
    targets = [load_target(name) for name in target_names()]
    if options.json:
        _print_json([asdict(target) for target in targets])
        return 0
    rows = [
        (t.name, t.title, f"{t.engine} {t.engine_version}", t.opset, f"{t.memory_mb:,}", f"{t.gflops:g}")
        for t in targets
    ]
    _print_table("targets", ("name", "device", "engine", "opset", "memory MB", "GFLOPS"), rows)
    return 0


def _inspect(options: argparse.Namespace) -> int:
    from coformer_compiler.commands.inspect import inspect_path

    found = inspect_path(options.path)
    if found["kind"] == "build" and not options.json:
        from coformer_compiler.report.schema import report_from_json
        from coformer_compiler.report.table import print_table

        print_table(report_from_json(found["report"]))
        return 0
    _print_json(found)
    return 0


def _validate(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from coformer_compiler.commands.validate import junit_from_checks, validate_build

    checks = validate_build(options.out)
    failed = [check for check in checks if check.failure is not None]
    if options.junit is not None:
        options.junit.write_text(junit_from_checks(checks), encoding="utf-8")
    if options.json:
        _print_json({"ok": not failed, "checks": [asdict(check) for check in checks]})
    else:
        for check in checks:
            state = "FAILED" if check.failure else "skipped" if check.skipped else "ok"
            detail = check.failure or check.skipped or ""
            print(f"{state:8} {check.device}: {check.name}{': ' if detail else ''}{detail}")
        print(f"{len(checks)} checks, {len(failed)} failed")
    return 1 if failed else 0


def _run(options: argparse.Namespace) -> int:
    from coformer_compiler.commands.run import run_build

    found = run_build(options.out, options.input, min_members=options.min_members)
    if options.json:
        _print_json(found)
        return 0
    for answer in found["answers"]:
        top = ", ".join(f"{each['label']} {each['probability']:.1%}" for each in answer["top"])
        print(f"{answer['label']}   ({top}; by {', '.join(answer['members'])} in {answer['total_ms']:.1f} ms)")
    return 0


def _bench(options: argparse.Namespace) -> int:
    from coformer_compiler.commands.bench import bench_build

    found = bench_build(options.out)
    if options.json:
        _print_json(found)
        return 0
    figures = {**found["members_ms"], "all together": found["aggregated_ms"]}
    rows = [
        (name, "not measured here", "", "")
        if each is None
        else (name, f"{each['median']:.3f}", f"{each['p95']:.3f}", each["runs"])
        for name, each in figures.items()
    ]
    _print_table("latency", ("device", "median ms", "p95 ms", "runs"), rows)
    return 0


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False))


def _print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    Console().print(table)


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


if __name__ == "__main__":
    sys.exit(main())
