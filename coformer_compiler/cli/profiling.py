"""`coformerc profile`: packs for boards to measure, and predictors from what they tell."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from coformer_compiler.cli.words import add_command, key_values, print_result


def add_profiling(commands: Any) -> None:
    """Add `profile pack` and `profile fit`."""
    text = "measure boards: write packs of random members, fit latency predictors to what boards tell"
    verbs = commands.add_parser("profile", help=text, description=text).add_subparsers(
        dest="verb", metavar="VERB", required=True
    )
    pack = add_command(verbs, "pack", _profile_pack, "write random member graphs for `coformer-node profile`")
    pack.add_argument("--model", required=True, metavar="LIBRARY:NAME", help="whose members")
    pack.add_argument("--model-option", action="append", default=[], metavar="KEY=VALUE", help="constructor option")
    pack.add_argument("--target", required=True, metavar="NAME", help="whose passes the graphs go through")
    pack.add_argument("--precision", metavar="NAME", help="what its engine computes in (default: the target's first)")
    pack.add_argument("-n", "--points", type=int, default=1000, metavar="N", help="how many graphs (default 1000)")
    pack.add_argument("--seed", type=int, default=0, metavar="N", help="of shapes and weights (default 0)")
    pack.add_argument("-o", "--out", type=Path, required=True, metavar="PACK", help="a new folder")
    fit = add_command(verbs, "fit", _profile_fit, "fit a predictor to the CSV files of one board")
    fit.add_argument(
        "files", type=Path, nargs="+", metavar="CSV", help="what `coformer-node profile` wrote, one a model"
    )
    fit.add_argument("-o", "--out", type=Path, required=True, metavar="PREDICTOR", help="the predictor, .safetensors")
    fit.add_argument(
        "--from", dest="known", metavar="PREDICTOR", help="carry this one over to the board by a few points (or: cpu)"
    )


def _profile_pack(options: argparse.Namespace) -> int:
    from coformer_compiler.commands.profile import write_profile_pack
    from coformer_compiler.commands.show import pack_text
    from coformer_compiler.config import scalar
    from coformer_compiler.progress import RichProgress
    from coformer_targets import load_target, with_precision

    pairs = [(key, scalar(value)) for key, value in key_values(options.model_option)]
    target = load_target(options.target)
    if options.precision is not None:
        target = with_precision(target, options.precision)
    with RichProgress() as progress:
        found = write_profile_pack(options.model, pairs, target, options.points, options.seed, options.out, progress)
    print_result(found, options.json, lambda: pack_text(found))
    return 0


def _profile_fit(options: argparse.Namespace) -> int:
    from coformer_compiler.commands.profile import fit_predictor
    from coformer_compiler.commands.show import predictor_text

    found = fit_predictor(options.files, options.out, options.known)
    print_result(found, options.json, lambda: predictor_text(found))
    return 0
