"""How much does the runtime add to the bare engine library, in start-up time and in memory?

Usage: python benchmarks/service/footprint.py [--python PATH ...]

Each interpreter needs coformer-runtime[onnxruntime]; the one that runs this script takes the source tree. Compared
in one run: a process that only imported onnxruntime, one that opened the same graph as a bare session and ran it,
and a worker that answered requests. Writes benchmarks/results/runtime_footprint.json; exits 1 beyond the limits.
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

from coformer_runtime.cluster import LocalCluster
from tests.runtime import bundles

RESULT = ROOT / "benchmarks" / "results" / "runtime_footprint.json"
IMPORT_MS, WORKER_MB = 150.0, 60.0
RUNS = 15
REQUESTS = 200
RSS = "print(int([l for l in open('/proc/self/status') if l.startswith('VmRSS')][0].split()[1]))"
BARE = "import onnxruntime; " + RSS
SESSION = """
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession({path!r}, options, providers=['CPUExecutionProvider'])
for _ in range(10):
    session.run(None, {{'pixels': numpy.zeros({shape!r}, 'uint8')}})
"""


def environment(python: str) -> dict[str, str]:
    """Return the environment for an interpreter: the source tree for this one, what it has for another."""
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return dict(clean, PYTHONPATH=str(ROOT / "runtime")) if python == sys.executable else clean


def seconds(python: str, code: str) -> float:
    """Return how long a process that runs `code` takes."""
    started = time.perf_counter()
    subprocess.run([python, "-c", code], check=True, env=environment(python))
    return time.perf_counter() - started


def printed(python: str, code: str) -> float:
    """Return the kB that `code` prints, in MB; the median of three processes."""
    values = [int(subprocess.run([python, "-c", code], check=True, env=environment(python), capture_output=True).stdout)
              for _ in range(3)]  # fmt: skip
    return statistics.median(values) / 1024


def rss_mb(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def measure(python: str, bundle_dirs: list[str]) -> dict[str, Any]:
    """Return the figures of one interpreter."""
    pairs = [(seconds(python, "pass"), seconds(python, "import coformer_runtime")) for _ in range(RUNS)]
    helps = [(seconds(python, "pass"), seconds(python, "from coformer_runtime.cli import parser; parser()"))
             for _ in range(RUNS)]  # fmt: skip
    session = SESSION.format(path=str(Path(bundle_dirs[1]) / "member.onnx"), shape=bundles.PIXELS)
    with LocalCluster(bundle_dirs, python=dict.fromkeys(bundles.DEVICES, python)) as cluster:
        with cluster.client() as client:
            for _ in range(REQUESTS):
                client.infer(bundles.golden_pixels()[:1])
        worker, central = rss_mb(cluster.pids["hall"]), rss_mb(cluster.pids["attic"])
    bare = printed(python, BARE)
    version = subprocess.run([python, "--version"], check=True, capture_output=True, text=True).stdout.split()[1]
    return {
        "python": version,
        "import_ms": round(statistics.median(b - a for a, b in pairs) * 1e3, 2),
        "command_line_ms": round(statistics.median(b - a for a, b in helps) * 1e3, 2),
        "bare_engine_library_mb": round(bare, 1),
        "bare_session_mb": round(printed(python, session + RSS), 1),
        "worker_mb": round(worker, 1),
        "worker_over_bare_mb": round(worker - bare, 1),
        "central_mb": round(central, 1),
    }


def main() -> int:
    """Run, print, write, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", nargs="+", default=[sys.executable], metavar="PATH")
    parser.add_argument("--output", type=Path, default=RESULT, help="where the raw figures go")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        dirs = bundles.make_cluster(Path(directory))
        rows = [measure(python, dirs) for python in options.python]
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps({"limits": {"import_ms": IMPORT_MS, "worker_over_bare_mb": WORKER_MB},
                                  "measured": rows}, indent=2) + "\n")  # fmt: skip
    for row in rows:
        print(", ".join(f"{key} {value}" for key, value in row.items()))
    return int(any(row["import_ms"] > IMPORT_MS or row["worker_over_bare_mb"] > WORKER_MB for row in rows))


if __name__ == "__main__":
    sys.exit(main())
