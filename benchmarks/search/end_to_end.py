"""The chosen policy of the digits teacher on the local cluster: predicted against measured end-to-end latency.

Run: python benchmarks/search/end_to_end.py [--work FOLDER] [--cpu-time]. Writes benchmarks/results/end_to_end.json.
About 4 minutes on two quiet cores. As many devices as there are cores, up to three: processes that share a core do not
compute side by side, which eq. (3) takes for granted.

1. A predictor of this machine: a pack of the digits teacher's members, measured here in one thread.
2. The link: what a request through a cluster of the policy `uniform` takes beyond its prediction with a round trip of 0
   is the round trip, software included. One number, from another policy than the one that is judged.
3. The policy: `debo` with that predictor and that link. Predicted: eq. (3). Measured: median `total_ms` of the central
   node over REQUESTS requests, and beside it what the client waits.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from coformer_compiler.commands.profile import fit_predictor, write_profile_pack
from coformer_compiler.compile import build
from coformer_compiler.config import BuildConfig, Overrides, read_config
from coformer_compiler.progress import SilentProgress
from coformer_compiler.report.schema import Prediction
from coformer_compiler.stages.lower import GOLDEN_INPUT
from coformer_runtime.cluster import LocalCluster
from coformer_runtime.profile import profile_pack
from coformer_runtime.profile_pack import open_pack
from coformer_targets import load_target

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks" / "results" / "end_to_end.json"
TEACHER = ROOT / "examples" / "digits" / "teacher.safetensors"
DIGITS = {"img_size": 8, "patch_size": 2, "embed_dim": 96, "depth": 6, "num_heads": 6, "in_chans": 1, "num_classes": 10}
MODEL, POINTS, ROUNDS = "timm:vit_tiny_patch16_224", 300, 3
WARM_UP, REQUESTS, CLUSTERS = 50, 300, 3
MBPS = 10_000.0


def predictor_of_this_machine(work: Path, clock: str) -> dict[str, Any]:
    """Pack, measure, fit; what is there already is kept."""
    pack, csv, out = work / "pack", work / "points.csv", work / "cpu.safetensors"
    if not pack.exists():
        write_profile_pack(MODEL, list(DIGITS.items()), load_target("cpu"), POINTS, 0, pack, SilentProgress())
    if not out.exists():
        for number in range(ROUNDS):
            if profile_pack(open_pack(str(pack)), str(csv), 1, clock, again=number > 0, say=print)[1] == 0:
                break
        return fit_predictor([csv], out, None)
    return fit_predictor([csv], out, None)


def config_of(work: Path, name: str, strategy: str, devices: int, rtt_ms: float) -> BuildConfig:
    """A configuration for this machine, untrained: latency does not depend on training."""
    options = "\n".join(f"{key} = {value}" for key, value in DIGITS.items())
    boards = "\n".join(
        f'[[devices]]\nname = "{board}"\ntarget = "cpu"\nmemory_mb = 512\npredictor = "cpu.safetensors"'
        for board in ("attic", "hall", "desk")[:devices]
    )
    path = work / f"{name}.toml"
    path.write_text(
        f'[model]\nname = "{MODEL}"\ncheckpoint = "{TEACHER}"\n[model.options]\n{options}\n[data]\nsource = "digits"\n'
        f'[policy]\nstrategy = "{strategy}"\nbasis = "per-norm"\n[network]\nmbps = {MBPS}\nrtt_ms = {rtt_ms}\n'
        f"[search]\niterations = 24\ninitial = 8\n[booster]\nsteps = 0\njoint_steps = 0\n{boards}\n"
    )
    return read_config(path, Overrides())


def built(config: BuildConfig, out: Path) -> Prediction:
    """Build, and what was predicted of it by eq. (3)."""
    found = build(config, out, SilentProgress()).report.predicted_ms
    assert found is not None and not found.estimated
    return found


def measurement(config: BuildConfig, out: Path) -> dict[str, Any]:
    """Medians over several clusters, each started anew: a process keeps for its life what memory it was given."""
    totals, waits, compute = [], [], []
    for _ in range(CLUSTERS):
        bundles = [out / "bundles" / device.name for device in config.devices]
        pixels = np.load(bundles[0] / GOLDEN_INPUT)[:1]
        with LocalCluster([str(path) for path in bundles], deadline_ms=5000) as cluster, cluster.client() as client:
            for number in range(WARM_UP + REQUESTS):
                started = time.perf_counter()
                answer = client.infer(pixels)
                waited = (time.perf_counter() - started) * 1e3
                if number >= WARM_UP:
                    totals.append(answer.phases.total_ms)
                    waits.append(waited)
                    compute.append([answer.phases.compute_ms[device.name] for device in config.devices])
    spread = float(np.subtract(*np.percentile(totals, [75, 25])) / np.median(totals))
    return {"total_ms": float(np.median(totals)), "spread": spread, "client_ms": float(np.median(waits)),
            "compute_ms": np.median(compute, axis=0).tolist()}  # fmt: skip


def main() -> None:
    """The three steps, and the error."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--work", type=Path, default=ROOT / "build" / "benchmarks" / "end_to_end")
    arguments.add_argument("--cpu-time", action="store_true", help="count processor time: this machine is not quiet")
    options = arguments.parse_args()
    work: Path = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    devices = max(2, min(3, len(os.sched_getaffinity(0))))
    result: dict[str, Any] = {"machine": platform.machine(), "devices": devices, "requests": REQUESTS * CLUSTERS}
    result["predictor"] = predictor_of_this_machine(work, "cpu" if options.cpu_time else "wall")
    result["predictor"].pop("predictor")

    uniform = config_of(work, "uniform", "uniform", devices, 0.0)
    without, link = built(uniform, work / "uniform"), measurement(uniform, work / "uniform")
    rtt_ms = max(0.0, link["total_ms"] - without.total)
    result["link"] = {"policy": "uniform", "predicted_without_ms": without.total, **link, "rtt_ms": rtt_ms}

    chosen = config_of(work, "chosen", "debo", devices, rtt_ms)
    predicted, measured = built(chosen, work / "chosen"), measurement(chosen, work / "chosen")
    error = predicted.total / measured["total_ms"] - 1
    result["chosen"] = {"policy": "debo", "predicted_ms": asdict(predicted), "measured": measured, "error": error}
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
