"""Does a local 3-device cluster answer thousands of requests without an error and without growing?

Usage: python benchmarks/service/soak.py [--requests 2000] [--python PATH] [--bundles DIR DIR DIR]

Sends requests one after the other, reads every process' resident memory and open files after the warm-up and at the
end, and writes benchmarks/results/runtime_soak.json. A process that grew is asked as many again, up to ROUNDS times: an
allocator takes another arena now and then, by as much as ten inputs; a leak grows every time. Exits 1 if a request
failed or a process grew in every round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "runtime")]

import numpy as np

from coformer_runtime.cluster import LocalCluster
from coformer_runtime.errors import CoformerError
from coformer_runtime.manifest import load_manifest
from tests.runtime import bundles

RESULT = ROOT / "benchmarks" / "results" / "runtime_soak.json"
WARM_UP = 3000  # allocators settle by then
ROUNDS = 3
RSS_GROWTH_KB = 1024
SHOWN = 20
PIXELS = (1, 3, 224, 224)  # 150 kB of uint8


class Errors:
    """How many there were, and the first of them; an hour of failures would not fit into memory, nor be read."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[str] = []

    def add(self, text: str) -> None:
        """Count one."""
        self.count += 1
        if self.count <= SHOWN:
            self.first.append(text)


def footprint(pid: int) -> dict[str, int]:
    """Return resident memory in kB, open files and threads of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    values = dict(line.split(":", 1) for line in status.splitlines())
    return {
        "rss_kb": int(values["VmRSS"].split()[0]),
        "open_files": len(os.listdir(f"/proc/{pid}/fd")),  # noqa: PTH208 - names only
        "threads": int(values["Threads"]),
    }


Growths = dict[str, dict[str, int]]
"""By device: how much its process grew in a round, by what footprint counts."""


def growths_of(samples: list[dict[str, dict[str, int]]]) -> Growths:
    """Compare the last sample of a round with its first."""
    first, last = samples[0], samples[-1]
    return {device: {key: last[device][key] - first[device][key] for key in first[device]} for device in first}


def leaking(rounds: list[Growths]) -> list[str]:
    """Name the devices whose processes grew in every round by more than they may."""
    return [device for device in rounds[0] if all(_too_much(growths[device]) for growths in rounds)]


def _too_much(grown: dict[str, int]) -> bool:
    return grown["rss_kb"] > RSS_GROWTH_KB or grown["open_files"] > 0


def soak(bundle_dirs: list[str], requests: int, python: str) -> dict[str, Any]:
    """Send the requests and return what was measured; the samples are those of the last round."""
    manifest = load_manifest(bundle_dirs[0])
    random = np.random.default_rng(0)
    inputs = [random.integers(0, 256, manifest.input.shape).astype(manifest.input.dtype) for _ in range(8)]
    errors = Errors()
    latency_ms: list[float] = []
    overhead_ms: list[float] = []
    rounds: list[Growths] = []
    pythons = dict.fromkeys(manifest.members, python)
    with LocalCluster(bundle_dirs, pythons, deadline_ms=5000) as cluster, cluster.client() as client:
        expected = [client.infer(array).logits for array in inputs]

        def send(number: int, latency_ms: list[float], overhead_ms: list[float]) -> None:
            started = time.perf_counter()
            try:
                answer = client.infer(inputs[number % len(inputs)])
            except CoformerError as error:
                errors.add(str(error))
                return
            latency_ms.append((time.perf_counter() - started) * 1e3)
            overhead_ms.append(latency_ms[-1] - max(answer.phases.compute_ms.values()))
            if not np.array_equal(answer.logits, expected[number % len(inputs)]) or answer.degraded:
                errors.add(f"request {number}: another answer than at first")

        for number in range(WARM_UP):
            send(number, [], [])
        while not rounds or (len(rounds) < ROUNDS and leaking(rounds)):
            samples = []
            for number in range(requests):
                if number % (requests // 4) == 0:
                    samples.append({device: footprint(pid) for device, pid in cluster.pids.items()})
                send(number, latency_ms, overhead_ms)
            samples.append({device: footprint(pid) for device, pid in cluster.pids.items()})
            rounds.append(growths_of(samples))
    return {
        "requests": requests * len(rounds),
        "errors": errors.first,
        "error_count": errors.count,
        "input_bytes": int(inputs[0].nbytes),
        "latency_ms": quantiles(latency_ms),
        "over_slowest_engine_ms": quantiles(overhead_ms),
        "samples": samples,
        "rounds": rounds,
    }


def quantiles(values: list[float]) -> dict[str, float]:
    """Return median, 95th and 99th percentile."""
    cuts = statistics.quantiles(values, n=100)
    return {"p50": round(cuts[49], 3), "p95": round(cuts[94], 3), "p99": round(cuts[98], 3)}


def main() -> int:
    """Run, print, write, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--output", type=Path, default=RESULT, help="where the raw figures go")
    parser.add_argument("--python", default=sys.executable, help="interpreter of all devices (default: this one)")
    parser.add_argument("--bundles", nargs="+", metavar="DIR", help="bundles of one cluster, the central one first")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        dirs = options.bundles or bundles.make_cluster(Path(directory), pixels=PIXELS)
        measured = soak(dirs, options.requests, options.python)
    version = subprocess.run([options.python, "--version"], check=True, capture_output=True, text=True).stdout
    measured["python"], measured["cpus"] = version.split()[1], os.cpu_count()
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(measured, indent=2, sort_keys=True) + "\n")
    print(f"{measured['requests']} requests of {measured['input_bytes']:,} bytes, {measured['error_count']} errors")
    print(f"latency {measured['latency_ms']} ms, over the slowest engine {measured['over_slowest_engine_ms']} ms")
    for growths in measured["rounds"]:
        for device, grown in growths.items():
            print(f"{device}: {grown['rss_kb']:+d} kB, {grown['open_files']:+d} files, {grown['threads']:+d} threads")
    return 1 if measured["error_count"] or leaking(measured["rounds"]) else 0


if __name__ == "__main__":
    sys.exit(main())
