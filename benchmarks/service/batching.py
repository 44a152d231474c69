"""What does dynamic batching give a crowd of short texts?

Usage: python benchmarks/service/batching.py [--requests 600] [--turns 4] [--output FILE]

Three members of a third of MiniLM-L6's shape on ONNX Runtime, one thread each, as processes of this machine; 16 clients
at a time send texts of 5 to 32 tokens. The same cluster is started in turns without and with `--batch-wait-ms 2`, so
that both see the same machine; the figure is the ratio of their throughputs. Batches are 1, 2, 4 and 8.

Takes about three minutes, a minute of them the build. Exits 1 if a request failed, was answered wrongly, or if batching
gives less.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), *(str(ROOT / part) for part in ("passes", "targets", "runtime"))]

import numpy as np

from benchmarks.service.soak import quantiles
from benchmarks.service.text_builds import WORDS, build
from coformer_runtime.cluster import LocalCluster

RESULT = ROOT / "benchmarks" / "results" / "cluster_batching.json"
AT_A_TIME, WARM_UP = 16, 64
LENGTHS, BATCHES, WAIT_MS = [32], [1, 2, 4, 8], 2.0
TOLERANCE = 1e-3


def texts(count: int) -> list[np.ndarray]:
    """Token numbers of texts, each `(1, tokens)` int32."""
    random = np.random.default_rng(0)
    return [random.integers(4, WORDS, (1, random.integers(5, 33)), dtype=np.int32) for _ in range(count)]


def crowd(dirs: list[str], given: list[np.ndarray], options: list[str], wanted: list[np.ndarray]) -> dict[str, Any]:
    """One turn: throughput, latency, batch sizes, and how far answers are from `wanted`, which the first turn fills."""
    sizes: list[int] = []
    with (
        LocalCluster(dirs, deadline_ms=20000, options=options) as cluster,
        cluster.client() as client,
        ThreadPoolExecutor(AT_A_TIME) as pool,
    ):

        def ask(ids: np.ndarray) -> tuple[float, np.ndarray]:
            began = time.perf_counter()
            answer = client.infer(ids)
            assert answer.shaped is not None
            sizes.append(answer.shaped.batch)
            return (time.perf_counter() - began) * 1e3, answer.logits

        list(pool.map(ask, given[:WARM_UP]))
        sizes.clear()
        began = time.perf_counter()
        found = list(pool.map(ask, given))
        took_s = time.perf_counter() - began
    if not wanted:
        wanted.extend(logits for _, logits in found)
    wrong = max(float(np.abs(logits - due).max()) for (_, logits), due in zip(found, wanted, strict=True))
    return {
        "per_s": len(given) / took_s,
        "latency_ms": quantiles([ms for ms, _ in found]),
        "profile_batch_mean": float(np.mean(sizes)),
        "difference": wrong,
    }


def main() -> int:
    """Run, print, write, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=600)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--output", type=Path, default=RESULT, help="where the raw figures go")
    options = parser.parse_args()
    ways = {"alone": [], "batched": ["--batch-wait-ms", str(WAIT_MS)]}
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    given, wanted = texts(options.requests), list[np.ndarray]()
    with tempfile.TemporaryDirectory() as directory:
        dirs = build(Path(directory) / "build", LENGTHS, BATCHES)
        for turn in range(options.turns):
            for name in list(ways)[:: 1 if turn % 2 == 0 else -1]:
                turns[name].append(crowd(dirs, given, ways[name], wanted))
                print(name, json.dumps(turns[name][-1]), flush=True)
    per_s = {name: float(np.median([each["per_s"] for each in found])) for name, found in turns.items()}
    ratio = per_s["batched"] / per_s["alone"]
    worst = max(each["difference"] for found in turns.values() for each in found)
    result = {
        "cpus": os.cpu_count(),
        "requests": options.requests,
        "at_a_time": AT_A_TIME,
        "wait_ms": WAIT_MS,
        "batches": BATCHES,
        "per_s": per_s,
        "ratio": ratio,
        "largest_difference": worst,
        "turns": turns,
    }
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{per_s['alone']:.0f} requests/s alone, {per_s['batched']:.0f} batched: {ratio:.2f} times")
    return 0 if worst <= TOLERANCE and ratio >= 1 else 1


if __name__ == "__main__":
    sys.exit(main())
