"""The chosen policy on the local cluster: predicted against measured end-to-end latency.

Run: python benchmarks/search/end_to_end.py [--work FOLDER] [--cpu-time]. Writes benchmarks/results/end_to_end.json.
About 8 minutes on two quiet cores. To be reached: predicted within 15 % of measured, for the chosen policy on the local
cluster. As many devices as there are cores, up to three, two at least: eq. (3) takes for granted that members compute
side by side, which processes that share a core do not, so that more of them would measure the scheduler. All of them
take part (`drop = false`): with a device left out there is less to predict.

The teacher is of DeiT-Ti's shape at 160 × 160 pixels, so that members compute for milliseconds, as they do on a board:
of the digits' members, a tenth of that, the scheduler decides. Its weights are random by seed and its images noise,
with its own decisions as their labels; a head as sure as a trained one makes these a task that members can fail.

1. A predictor of this machine: a pack of the teacher's members, measured here in one thread. The devices' GFLOPS are
   what it says of the whole teacher, so that the aggregation's part is of this machine as well.
2. The link, from a cluster of the policy `uniform`: what a worker's features take beyond its engine is `rtt_ms`, what a
   request takes beyond the last features is `node_ms`. Two numbers, from another policy than the one that is judged.
3. The policy: `debo` with that predictor and that link. Predicted: eq. (3) and `node_ms`. Measured: median `total_ms`
   of the central node over REQUESTS requests, and beside it what the client waits.
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
from coformer_compiler.decomposer.policy import MemberPolicy, read_policy, teacher_shape
from coformer_compiler.decomposer.shapes import full_shape
from coformer_compiler.profiling.predictor import load_predictor
from coformer_compiler.profiling.table import table_of_shapes
from coformer_compiler.profiling.terms import flops_of
from coformer_compiler.progress import SilentProgress
from coformer_compiler.report.schema import Prediction
from coformer_compiler.stages.lower import GOLDEN_INPUT
from coformer_runtime.cluster import LocalCluster
from coformer_runtime.profile import profile_pack
from coformer_runtime.profile_pack import open_pack
from coformer_targets import load_target

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks" / "results" / "end_to_end.json"
PREDICTOR = "cpu.safetensors"
TEACHER, IMAGES = "teacher.safetensors", "images.npz"
SIZE, CLASSES, SURE = 160, 10, 4.0
MODEL, OPTIONS = "deit_tiny_patch16_224", {"img_size": SIZE, "num_classes": CLASSES}
COUNTS = {"train": 256, "validation": 128, "test": 64}
POINTS, ROUNDS = 200, 3
WARM_UP, REQUESTS, CLUSTERS = 50, 300, 3
ITERATIONS, INITIAL = 24, 8
MBPS, GOAL = 10_000.0, 0.15


def make_teacher(work: Path) -> None:
    """The teacher's checkpoint and its images with its own decisions as labels, where they are not there."""
    if (work / IMAGES).exists():
        return
    import torch
    from safetensors.torch import save_file

    from coformer_compiler.torchvision_operators import ensure_torchvision_operators

    ensure_torchvision_operators()
    import timm

    torch.manual_seed(0)
    model = timm.create_model(MODEL, pretrained=False, **OPTIONS).eval()
    random = np.random.default_rng(0)
    coarse = {
        part: random.integers(0, 256, (count, 3, SIZE // 8, SIZE // 8), np.uint8) for part, count in COUNTS.items()
    }
    images = {part: each.repeat(8, 2).repeat(8, 3) for part, each in coarse.items()}
    mean, deviation = (torch.tensor(model.pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))

    @torch.no_grad()
    def answers(part: str) -> torch.Tensor:
        parts = torch.from_numpy(images[part]).split(32)
        return torch.cat([model((each / 255 - mean) / deviation) for each in parts])

    logits = answers("train")
    with torch.no_grad():
        scale = SURE / logits.std(0).mean()
        model.head.bias.sub_(logits.mean(0))
        model.head.weight.mul_(scale)
        model.head.bias.mul_(scale)
    save_file(model.state_dict(), work / TEACHER)
    labels = {f"{part}_labels": answers(part).argmax(1).numpy() for part in COUNTS}
    np.savez(work / IMAGES, **{f"{part}_images": each for part, each in images.items()}, **labels)


def predictor_of_this_machine(work: Path, clock: str, points: int) -> dict[str, Any]:
    """Pack, measure, fit; what is there already is kept."""
    pack, csv, out = work / "pack", work / "points.csv", work / PREDICTOR
    if not pack.exists():
        write_profile_pack(
            f"timm:{MODEL}", list(OPTIONS.items()), load_target("cpu"), points, 0, pack, SilentProgress()
        )
    if not out.exists():
        for number in range(ROUNDS):
            if profile_pack(open_pack(str(pack)), str(csv), 1, clock, again=number > 0, say=print)[1] == 0:
                break
    return fit_predictor([csv], out, None)


def sustained_gflops(path: Path) -> float:
    """10⁹ operations a second that this machine sustains on the whole teacher, by its predictor."""
    predictor = load_predictor(path)
    (teacher,) = predictor.models.values()
    whole = table_of_shapes([full_shape(teacher_shape(teacher))], len(teacher.layers), shortcuts=False)
    return float(flops_of(teacher, whole)[0] / (predictor.latency_ms(teacher, whole)[0] * 1e6))


def config_of(
    work: Path, name: str, strategy: str, devices: int, iterations: int, rtt_ms: float = 0.0, node_ms: float = 0.0
) -> BuildConfig:
    """A configuration for this machine, untrained: latency does not depend on training."""
    options = "\n".join(f"{key} = {value}" for key, value in OPTIONS.items())
    gflops = sustained_gflops(work / PREDICTOR)
    boards = "\n".join(
        f'[[devices]]\nname = "{board}"\ntarget = "cpu"\nmemory_mb = 512\ngflops = {gflops}\npredictor = "{PREDICTOR}"'
        for board in ("attic", "hall", "desk")[:devices]
    )
    path = work / f"{name}.toml"
    path.write_text(
        f'[model]\nname = "timm:{MODEL}"\ncheckpoint = "{TEACHER}"\n[model.options]\n{options}\n'
        f'[data]\nsource = "npz:{IMAGES}"\ncalibration = 128\n'
        f'[policy]\nstrategy = "{strategy}"\nbasis = "per-norm"\n'
        f"[network]\nmbps = {MBPS}\nrtt_ms = {rtt_ms}\nnode_ms = {node_ms}\n"
        f"[search]\ndrop = false\nsamples = 64\niterations = {iterations}\ninitial = {min(INITIAL, iterations)}\n"
        f"[booster]\nsteps = 0\njoint_steps = 0\n{boards}\n"
    )
    return read_config(path, Overrides())


def built(config: BuildConfig, out: Path) -> Prediction:
    """Build, and what was predicted of it by eq. (3)."""
    found = build(config, out, SilentProgress()).report.predicted_ms
    assert found is not None and not found.estimated
    return found


def members_of(out: Path) -> tuple[MemberPolicy, ...]:
    """What the built policy gives each device."""
    return read_policy(out / "policy.json").members


def measurement(config: BuildConfig, out: Path, requests: int, clusters: int) -> dict[str, Any]:
    """Medians over several clusters, each started anew: a process keeps for its life what memory it was given."""
    totals, waits, compute, ways, behind = [], [], [], [], []
    for _ in range(clusters):
        bundles = [out / "bundles" / device.name for device in config.devices]
        pixels = np.load(bundles[0] / GOLDEN_INPUT)[:1]
        with LocalCluster([str(path) for path in bundles], deadline_ms=5000) as cluster, cluster.client() as client:
            for number in range(WARM_UP + requests):
                started = time.perf_counter()
                answer = client.infer(pixels)
                waited = (time.perf_counter() - started) * 1e3
                if number >= WARM_UP:
                    totals.append(answer.phases.total_ms)
                    waits.append(waited)
                    compute.append([answer.phases.compute_ms[device.name] for device in config.devices])
                    ways.append([answer.phases.transfer_ms[device.name] for device in config.devices[1:]])
                    arrived = [compute[-1][0], *np.add(compute[-1][1:], ways[-1])]
                    behind.append(answer.phases.total_ms - max(arrived))
    spread = float(np.subtract(*np.percentile(totals, [75, 25])) / np.median(totals))
    return {"total_ms": float(np.median(totals)), "spread": spread, "client_ms": float(np.median(waits)),
            "compute_ms": np.median(compute, axis=0).tolist(), "rtt_ms": float(np.median(ways)),
            "node_ms": float(np.median(behind))}  # fmt: skip


def main() -> None:
    """The three steps, and the error."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--work", type=Path, default=ROOT / "build" / "benchmarks" / "end_to_end")
    arguments.add_argument("--output", type=Path, default=RESULT)
    arguments.add_argument("--cpu-time", action="store_true", help="count processor time: this machine is not quiet")
    arguments.add_argument("--points", type=int, default=POINTS, help="of the pack that the predictor is fitted to")
    arguments.add_argument("--iterations", type=int, default=ITERATIONS, help="of the search")
    arguments.add_argument("--requests", type=int, default=REQUESTS, help="to each cluster")
    arguments.add_argument("--clusters", type=int, default=CLUSTERS)
    options = arguments.parse_args()
    work: Path = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    make_teacher(work)
    cores = len(os.sched_getaffinity(0))
    devices, times = max(2, min(3, cores)), (options.requests, options.clusters)
    result: dict[str, Any] = {"machine": platform.machine(), "cores": cores, "devices": devices,
                              "requests": options.requests * options.clusters}  # fmt: skip
    result["predictor"] = predictor_of_this_machine(work, "cpu" if options.cpu_time else "wall", options.points)
    result["predictor"].pop("predictor")
    result["gflops"] = sustained_gflops(work / PREDICTOR)

    uniform = config_of(work, "uniform", "uniform", devices, options.iterations)
    without, link = built(uniform, work / "uniform"), measurement(uniform, work / "uniform", *times)
    result["link"] = {"policy": "uniform", "predicted_without_ms": without.total, **link}

    found = {key: max(0.0, link[key]) for key in ("rtt_ms", "node_ms")}
    chosen = config_of(work, "chosen", "debo", devices, options.iterations, **found)
    predicted, measured = built(chosen, work / "chosen"), measurement(chosen, work / "chosen", *times)
    error = predicted.total / measured["total_ms"] - 1
    result["chosen"] = {"policy": "debo", "predicted_ms": asdict(predicted), "measured": measured, "error": error}
    # Where the search ends at `uniform`, the round trip was read off the very policy that is judged.
    result["chosen"]["unlike uniform"] = members_of(work / "chosen") != members_of(work / "uniform")
    result[f"within {GOAL:.0%}"] = abs(error) <= GOAL
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
