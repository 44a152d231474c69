"""The latency predictor on this machine's CPU: error on held-out members of DeiT-Ti, and how steady the points are.

Run: python benchmarks/search/predictor.py [--work FOLDER] [--points N] [--cpu-time] [--ship]. Writes
benchmarks/results/predictor.json, and with --ship the predictor that ships for `cpu`, fitted to members of DeiT-Ti and
of the digits teacher together. One thread. About 12 minutes on a quiet core: 2 for the packs, 9 for DeiT-Ti, 1 for the
digits. What is interrupted goes on; delete the work folder to begin anew.

- gathering: minutes that measuring took, of all rounds (points that were not stable are measured again, up to ROUNDS);
- spread: interquartile range of a point's 50 runs, as a part of their median;
- repeat: every REPEAT_EVERY-th point measured once more at the end: how far the two medians are apart, each in units of
  the reference graph's, as in the fit;
- held_out: relative errors of both models on the fifth of the points that neither has seen, and that chose neither.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import onnxruntime

from coformer_compiler.evaluator.compute import SHIPPED
from coformer_compiler.frontends import ModelSource, import_model
from coformer_compiler.profiling.fit import fit_files
from coformer_compiler.profiling.packs import write_pack
from coformer_compiler.profiling.predictor import Predictor, save_predictor
from coformer_runtime.profile import CLOCKS, Reference, feeds_of, measure_point, profile_pack, reference_of
from coformer_runtime.profile_engines import opener_for
from coformer_runtime.profile_pack import Pack, open_pack
from coformer_runtime.profile_points import read_points, stable_points
from coformer_targets import load_target

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks" / "results" / "predictor.json"
DIGITS = {"img_size": 8, "patch_size": 2, "embed_dim": 96, "depth": 6, "num_heads": 6, "in_chans": 1, "num_classes": 10}
MODELS: dict[str, tuple[str, dict[str, int]]] = {
    "deit-ti": ("timm:deit_tiny_patch16_224", {}),
    "digits": ("timm:vit_tiny_patch16_224", DIGITS),
}
ROUNDS, REPEAT_EVERY = 3, 12


def pack_of(key: str, work: Path, points: int) -> Pack:
    """The model's pack, written where it is not there."""
    name, options = MODELS[key]
    folder = work / key
    if not folder.exists():
        spec = import_model(ModelSource(name, "random", options=tuple(sorted(options.items())))).spec
        write_pack(folder, key, spec, load_target("cpu"), points)
    return open_pack(str(folder))


def gather(pack: Pack, csv: Path, clock: str, rounds: int) -> float:
    """Measure into the file; the minutes that it took, those of interrupted runs included, are kept beside it."""
    spent = csv.with_suffix(".minutes")
    for number in range(rounds):
        started = time.monotonic()
        before = float(spent.read_text()) if spent.exists() else 0.0
        try:
            _, shaky = profile_pack(pack, str(csv), 1, clock, again=number > 0, say=print)
        finally:
            spent.write_text(str(before + (time.monotonic() - started) / 60))
        if shaky == 0:
            break
    return float(spent.read_text())


def repeats(pack: Pack, csv: Path, clock: str) -> dict[str, Any]:
    """Every REPEAT_EVERY-th stable point once more, against its first median, both in units of the reference's."""
    points = read_points(str(csv)).points
    first = {point.graph: point.median_ms / point.reference_ms for point in stable_points(points)}
    best_ms, feeds = min(point.reference_ms for point in points), feeds_of(pack)
    apart = []
    with opener_for(pack, 1, str(csv.parent)) as opener, opener.open(reference_of(pack)) as engine:
        reference = Reference(lambda: engine.run(feeds), CLOCKS[clock], best_ms)
        for point in [each for each in pack.points if each.graph in first][::REPEAT_EVERY]:
            again = measure_point(pack, point, opener, reference)
            if again.stable:
                apart.append(abs(again.median_ms / again.reference_ms / first[point.graph] - 1))
    if not apart:
        return {"points": 0}
    return {"points": len(apart), "median": float(np.median(apart)), "p95": float(np.percentile(apart, 95))}


def figures(predictor: Predictor) -> dict[str, Any]:
    """What the fit says of itself."""
    errors = {kind: {"median": e.median, "p95": e.p95} for kind, e in predictor.errors.items()}
    return {"points": predictor.points, "unstable": predictor.unstable, "spread": predictor.spread,
            "in_use": predictor.kind, "held_out": errors}  # fmt: skip


def main() -> None:
    """Pack, measure, fit, write."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--work", type=Path, default=ROOT / "build" / "benchmarks" / "predictor")
    arguments.add_argument("--points", type=int, default=400, help="of DeiT-Ti; half as many of the digits teacher")
    arguments.add_argument("--cpu-time", action="store_true", help="count processor time: this machine is not quiet")
    arguments.add_argument("--ship", action="store_true", help="replace the predictor that ships for cpu")
    options = arguments.parse_args()
    clock, work = "cpu" if options.cpu_time else "wall", options.work
    work.mkdir(parents=True, exist_ok=True)
    counts = {"deit-ti": options.points, "digits": options.points // 2}
    packs = {key: pack_of(key, work, counts[key]) for key in MODELS}
    result: dict[str, Any] = {"onnxruntime": onnxruntime.__version__, "threads": 1, "clock": clock}
    for key, pack in packs.items():
        csv = work / f"{key}.csv"
        minutes = gather(pack, csv, clock, ROUNDS)
        alone = fit_files([csv])
        result[key] = {"gathering_minutes": minutes, **figures(alone), "repeat": repeats(pack, csv, clock)}
        result["board"] = alone.board
    both = fit_files([work / f"{key}.csv" for key in MODELS])
    result["together"] = figures(both)
    if options.ship:
        SHIPPED.mkdir(exist_ok=True)
        save_predictor(SHIPPED / "cpu.safetensors", both)
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
