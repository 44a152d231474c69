"""How much of what its slowest engine can does a cluster give to a stock client?

Usage: python benchmarks/service/stock_load.py [--requests 300] [--output FILE]

Three devices on loopback, 150 kB of uint8 as input; the engine of one takes ENGINE_MS or a little more, the others' a
small part of that: one request at a time leaves the engine idle while bytes travel, so that the share there is the
engine's time over itself and what the cluster adds. Triton's own Python client, unchanged and in an environment of its
own (tests/runtime/stock.py), sends requests 1, 4 and 16 at a time from a process of its own. The slow engine is
measured alone, in this process while no cluster is up, before and after: what it allows is the reverse of its median
(`share`). Beside it, what tells a busy machine from a slow cluster: the same by the engine's own median under that load
(`share_in_run`), and by the median of the latency (`share_typical`). What takes the CPU away now and then, other work
or the limit that Linux sets to real-time priorities, lengthens a few requests and no median.

About a minute. Exits 1 if a request failed, if an answer was another one, if a load had a share of less than 90 %, or
if the engine alone took less than LEAST_MS.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "runtime")]

import numpy as np

from benchmarks.service.soak import PIXELS
from coformer_runtime.bundle import open_bundle
from coformer_runtime.cluster import LocalCluster
from coformer_runtime.engines import open_member
from tests.runtime import bundles
from tests.runtime.stock import CLEAN, REQUIREMENT, SCRIPT, stock_interpreter

RESULT = ROOT / "benchmarks" / "results" / "cluster_load.json"
LOADS = (1, 4, 16)
SHARE = 0.9
ENGINE_MS, LEAST_MS = 64.0, 60.0  # to be found, by the fastest run; to be stated
TRIED = 40  # loops of the graph that the number of loops is found by
RUNS = 40
SLOW = 1  # member index of the slow device


def make_bundles(directory: Path, loops: int) -> list[str]:
    """The bundles of three devices, one of them with so many loops in its graph."""
    return [
        bundles.make_bundle(
            directory / name,
            member,
            graph=bundles.member_graph(member, PIXELS, slow=loops if member == SLOW else 2),
            pixels=PIXELS,
        )
        for member, name in enumerate(bundles.DEVICES)
    ]


def alone_ms(bundle_dir: str) -> tuple[float, float]:
    """Least and median time of a bundle's engine, on one thread, with nothing beside it."""
    array = np.random.default_rng(0).integers(0, 256, PIXELS, dtype=np.uint8)
    times = []
    with open_member(open_bundle(bundle_dir), 1) as engine:
        for _ in range(RUNS):
            started = time.perf_counter()
            engine.run({"pixels": array})
            times.append((time.perf_counter() - started) * 1e3)
    return min(times), float(np.median(times))


def loaded(address: str, concurrency: int, requests: int) -> dict[str, Any]:
    """What the stock client saw."""
    words = [stock_interpreter(), str(SCRIPT), address, "--load", str(concurrency), "--requests", str(requests)]
    done = subprocess.run(words, stdout=subprocess.PIPE, env=CLEAN, check=True)
    seen: dict[str, Any] = json.loads(done.stdout)
    del seen["sample"]
    return seen


def measure(directory: Path, requests: int) -> dict[str, Any]:
    """The engine alone, the loads, the engine alone once more."""
    tried_ms, _ = alone_ms(make_bundles(directory / "tried", TRIED)[SLOW])
    dirs = make_bundles(directory / "load", max(1, round(TRIED * ENGINE_MS / tried_ms)))
    _, before_ms = alone_ms(dirs[SLOW])
    with LocalCluster(dirs, deadline_ms=20000) as cluster:
        loads = [loaded(cluster.address, concurrency, requests) for concurrency in LOADS]
    _, after_ms = alone_ms(dirs[SLOW])
    allowed = 2e3 / (before_ms + after_ms)
    for each in loads:
        each["share"] = round(each["per_s"] / allowed, 4)
        each["share_typical"] = round(each["concurrency"] * 1e3 / each["latency_ms"]["p50"] / allowed, 4)
        each["share_in_run"] = round(each["per_s"] * each["slowest_engine_ms"] / 1e3, 4)
    return {
        "client": REQUIREMENT,
        "input_bytes": int(np.prod(PIXELS)),
        "cpus": len(os.sched_getaffinity(0)),
        "requests": requests,
        "engine_alone_ms": {"before": round(before_ms, 3), "after": round(after_ms, 3), "least_asked": LEAST_MS},
        "engine_allows_per_s": round(allowed, 3),
        "loads": loads,
    }


def main() -> int:
    """Run, print, write, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=300, help="of each load")
    parser.add_argument("--output", type=Path, default=RESULT, help="where the raw figures go")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        measured = measure(Path(directory), options.requests)
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(measured, indent=2, sort_keys=True) + "\n")
    alone = measured["engine_alone_ms"]
    print(f"slowest engine alone: {alone['before']} ms before, {alone['after']} ms after")
    for each in measured["loads"]:
        print(
            f"{each['concurrency']} at a time: {each['per_s']}/s, {100 * each['share']:.1f} % of what it allows "
            f"({100 * each['share_in_run']:.1f} % by its time in the run, {100 * each['share_typical']:.1f} % by the "
            f"median of the latency), {each['errors']} errors, "
            f"latency {each['latency_ms']} ms"
        )
        for error in each["first_errors"]:
            print(" ", error)
    quick = min(alone["before"], alone["after"]) < LEAST_MS
    return 1 if quick or any(each["errors"] or each["share"] < SHARE for each in measured["loads"]) else 0


if __name__ == "__main__":
    sys.exit(main())
