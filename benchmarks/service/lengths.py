"""What do profiles of several lengths save short texts, and what do they cost in memory?

Usage: python benchmarks/service/lengths.py [--requests 300] [--output FILE]

Three members of a third of MiniLM-L6's shape on ONNX Runtime, one thread each, as processes of this machine: with the
lengths 32, 64 and 128, the same with `share_weights`, and with 128 alone. One client sends the same texts to all three
clusters in turns, 5 to 30 tokens (nine in ten) and 31 to 128 (one in ten), so that all see the same machine; the figure
is the ratio of the medians of short texts. Memory is a worker's resident set, and what of it is in no file.

Takes about four minutes, most of it the three builds. Exits 1 if a request failed, was answered wrongly, or short texts
gain nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), *(str(ROOT / part) for part in ("passes", "targets", "runtime"))]

import numpy as np

from benchmarks.service.soak import quantiles
from benchmarks.service.text_builds import WORDS, build
from coformer_runtime.client import Client
from coformer_runtime.cluster import LocalCluster

RESULT = ROOT / "benchmarks" / "results" / "cluster_lengths.json"
WARM_UP = 10
SHORT, LONGEST = 30, 128
CLUSTERS = {"profiles": ([32, 64, 128], False), "shared": ([32, 64, 128], True), "longest": ([128], False)}
TOLERANCE = 1e-3


def texts(count: int) -> list[np.ndarray]:
    """Token numbers of texts, each `(1, tokens)` int32, nine in ten of them short."""
    random = np.random.default_rng(0)
    tokens = [
        random.integers(5, SHORT + 1) if n % 10 else random.integers(SHORT + 1, LONGEST + 1) for n in range(count)
    ]
    return [random.integers(4, WORDS, (1, size), dtype=np.int32) for size in tokens]


def memory_mb(pid: int) -> dict[str, float]:
    """Resident memory of a process, and the part of it that is in no file."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        words = line.split()
        if words[0] in ("Rss:", "Anonymous:"):
            found[words[0][:-1].lower()] = int(words[1]) / 1024
    return found


def in_turns(clients: dict[str, Client], given: list[np.ndarray]) -> tuple[dict[str, list[float]], float]:
    """Milliseconds of every request but the first few, by cluster, and how far the clusters' answers are apart."""
    times: dict[str, list[float]] = {name: [] for name in clients}
    worst = 0.0
    for number, ids in enumerate(given):
        answers = []
        for name in list(clients)[:: 1 if number % 2 else -1]:
            began = time.perf_counter()
            answers.append(clients[name].infer(ids).logits)
            if number >= WARM_UP:
                times[name].append((time.perf_counter() - began) * 1e3)
        worst = max(worst, *(float(np.abs(each - answers[0]).max()) for each in answers))
    return times, worst


def main() -> int:
    """Run, print, write, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--output", type=Path, default=RESULT, help="where the raw figures go")
    options = parser.parse_args()
    given = texts(WARM_UP + options.requests)
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        dirs = {
            name: build(Path(directory) / name, lengths, [1], share_weights=share)
            for name, (lengths, share) in CLUSTERS.items()
        }
        clusters = {name: stack.enter_context(LocalCluster(found, deadline_ms=20000)) for name, found in dirs.items()}
        times, worst = in_turns({name: cluster.client() for name, cluster in clusters.items()}, given)
        memory = {name: memory_mb(cluster.pids["hall"]) for name, cluster in clusters.items()}
        disk = {
            name: sum(path.stat().st_size for path in Path(found[1]).rglob("*")) / 1e6 for name, found in dirs.items()
        }
    short = np.array([ids.shape[1] <= SHORT for ids in given[WARM_UP:]])
    medians = {
        kind: {name: float(np.median(np.array(found)[rows])) for name, found in times.items()}
        for kind, rows in (("short", short), ("long", ~short))
    }
    ratio = medians["short"]["profiles"] / medians["short"]["longest"]
    result = {
        "cpus": os.cpu_count(),
        "requests": options.requests,
        "median_ms": medians,
        "ratio_short": ratio,
        "latency_ms": {name: quantiles(found) for name, found in times.items()},
        "largest_difference": worst,
        "worker_memory_mb": memory,
        "bundle_mb": disk,
    }
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))
    return 0 if worst <= TOLERANCE and ratio < 1 else 1


if __name__ == "__main__":
    sys.exit(main())
