"""How often is `current` a whole release after a kill, or a full disk, at any point of pull and activate?

Usage: python benchmarks/service/shipping_interrupted.py [--python PATH ...]

Four operations (first install, upgrade, a release that does not prove well, roll-back), interrupted before every step
of the tables and before every call that changes the disk. After each, every byte of `current` is hashed, the board
recovers, and the operation is repeated to its end. Writes benchmarks/results/shipping_interrupted.json; exits 1 unless
it is 100 %. Nothing here is a matter of time, so that a busy machine gives the same figures.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), *(str(ROOT / name) for name in ("passes", "targets", "runtime"))]

from tests.runtime.shipping.releases import make_build, make_keys, pushed

RESULT = ROOT / "benchmarks" / "results" / "shipping_interrupted.json"
SCRIPT = ROOT / "tests" / "runtime" / "shipping" / "interrupted.py"
OPERATIONS = ("install", "upgrade", "fail", "rollback")


def measure(python: str, folder: Path) -> list[dict[str, Any]]:
    """One row per operation, way of interrupting and kind of point."""
    version = subprocess.run([python, "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "runtime")}
    rows = []
    for how in ("kill", "full"):
        for where in ("steps", "calls"):
            for operation in OPERATIONS:
                with tempfile.TemporaryDirectory() as work:
                    words = [how, where, operation, str(folder / "layout"), str(folder / "test.pub"), work]
                    done = subprocess.run(
                        [python, str(SCRIPT), *words], capture_output=True, text=True, env=environment, check=False
                    )
                sys.stderr.write(done.stderr if done.returncode else "")
                found = json.loads(done.stdout) if done.returncode == 0 else {"points": 1, "valid": 0}
                rows.append({"python": version, "how": how, "where": where, "operation": operation, **found})
                print(f"{version} {how} {where} {operation}: {found['valid']} of {found['points']}", flush=True)
    return rows


def main() -> int:
    """Run, print, write, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", nargs="+", default=[sys.executable], metavar="PATH")
    parser.add_argument("--output", type=Path, default=RESULT, help="where the raw figures go")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        key = make_keys(folder)
        for version, tag in ((1, "one"), (2, "two")):
            pushed(make_build(folder / tag, str(version) * 64), f"oci-layout:{folder / 'layout'}:{tag}", key, version)
        rows = [row for python in options.python for row in measure(python, folder)]
    valid, points = sum(row["valid"] for row in rows), sum(row["points"] for row in rows)
    result = {"valid": valid, "points": points, "percent": 100.0 * valid / points, "measured": rows}
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"current was a whole release after {valid} of {points} interruptions")
    return int(valid != points)


if __name__ == "__main__":
    sys.exit(main())
