"""`coformerc build` and `coformerc search`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coformer_compiler.cli.words import add_command, key_values, print_json, print_result
from coformer_runtime.errors import CoformerError

if TYPE_CHECKING:
    from coformer_compiler.config import BuildConfig


def add_building(commands: Any) -> None:
    """Add `build` and `search`."""
    build = add_command(commands, "build", _build, "compile a model for a list of devices")
    _add_configuration(build)
    build.add_argument(
        "--steps", type=int, metavar="N", help="training steps per member and in the joint phase; 0 trains nothing"
    )
    build.add_argument(
        "--dry-run", action="store_true", help="print policy, costs, what would be built and what is cached"
    )
    search = add_command(
        commands, "search", _search, "search for a policy, and print the front of loss, latency and energy"
    )
    _add_configuration(search)
    search.set_defaults(steps=None, searching=True)
    search.add_argument("--journal", type=Path, metavar="FILE", help="an earlier search's journal to go on from")


def _add_configuration(build: argparse.ArgumentParser) -> None:
    build.add_argument(
        "config", type=Path, nargs="?", metavar="CONFIG.toml", help="what to build; options override what it says"
    )
    build.add_argument("-o", "--out", type=Path, metavar="OUT", help="output folder (default: build/NAME)")
    build.add_argument(
        "--target", action="append", default=[], metavar="NAME", help="a device of this target; repeatable"
    )
    build.add_argument(
        "--target-file",
        action="append",
        type=Path,
        dest="target",
        metavar="FILE",
        help="a device of a target of your own; repeatable",
    )
    build.add_argument("--precision", metavar="NAME", help="what engines compute in: float32, float16 or int8")
    build.add_argument("--model", metavar="LIBRARY:NAME", help="the teacher: timm:NAME or hf:FOLDER")
    build.add_argument("--checkpoint", type=Path, metavar="FILE", help="its weights: safetensors, pth or a hub folder")
    build.add_argument("--weights", choices=("file", "hub", "random"), help="where weights come from")
    build.add_argument("--model-option", action="append", default=[], metavar="KEY=VALUE", help="constructor option")
    build.add_argument("--data", metavar="KIND:PATH", help="such as digits, imagefolder:DIR or text:PATH")
    build.add_argument("--strategy", metavar="NAME", help="how the teacher is shared out, such as proportional or debo")
    build.add_argument("--pick", metavar="NAME", help="best, knee, fastest, most-accurate or under=MS, of a search")
    build.add_argument(
        "--bandwidths", metavar="MBPS,MBPS,...", help="rates in Mbit/s, such as 2,100,1000: build the policy for each"
    )
    build.add_argument("--seed", type=int, metavar="N", help="of everything that is drawn at random")
    build.add_argument("--resume", action="store_true", help="go on with an earlier build; refuse to begin a new one")


def _build(options: argparse.Namespace) -> int:
    config, out = _configured(options)
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
        print_json(built.report.to_json())
    elif built.changed:
        print_table(built.report)
        print(f"\nbundles: {out / 'bundles'}\nreport:  {out / 'report.html'}")
    else:
        print_table(built.report)
        print(f"\nnothing to do: all {len(built.report.stages)} stages are cached in {out}")
    return 0


def _search(options: argparse.Namespace) -> int:
    config, out = _configured(options)
    from coformer_compiler.commands.search import search_config, search_text
    from coformer_compiler.progress import RichProgress

    with RichProgress() as progress:
        found = search_config(config, out, progress)
    print_result(found, options.json, lambda: search_text(found))
    return 0


def _dry_run(config: BuildConfig, out: Path, as_json: bool) -> int:
    from coformer_compiler.commands.dry_run import dry_run
    from coformer_compiler.commands.show import plan_text

    found = dry_run(config, out)
    print_result(found, as_json, lambda: plan_text(found, out))
    return 0


def _configured(options: argparse.Namespace) -> tuple[BuildConfig, Path]:
    from coformer_compiler.config import Overrides, bandwidths_from_text, read_config

    overrides = Overrides(
        options.model,
        options.checkpoint,
        options.weights,
        tuple(key_values(options.model_option)),
        options.data,
        tuple(options.target),
        options.precision,
        options.strategy,
        options.seed,
        options.steps,
        options.pick,
        getattr(options, "journal", None),
        () if options.bandwidths is None else bandwidths_from_text(options.bandwidths),
        getattr(options, "searching", False),
    )
    config = read_config(options.config, overrides)
    stem = options.config.stem if options.config else config.model.name.partition(":")[2]
    out: Path = options.out or Path("build") / stem
    if options.resume and not (out / "cache").is_dir():
        raise CoformerError("there is nothing to resume", f"output folder {out}", "leave --resume away to begin")
    return config, out
