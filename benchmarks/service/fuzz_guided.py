"""The same as fuzz.py, led by coverage: what reaches new code is kept and mutated further.

Usage: python benchmarks/service/fuzz_guided.py central|worker [--seconds 60] [--corpus DIR]

Needs atheris (`make fuzz`, or `pip install 'coformer-compiler[fuzz]'`; CPython 3.11 to 3.13). Starts from
tests/runtime/corpus, which the tests replay without atheris; new inputs go into DIR, a temporary one by default. Ends
with atheris' own report, and with an exit code other than 0 and the input in a file beside it where a node crashed,
hung, or told too much.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "runtime")]

import atheris

with atheris.instrument_imports(include=["coformer_runtime"]):
    from benchmarks.service import fuzz_targets
    from coformer_runtime.bundle import open_bundle
    from coformer_runtime.central import Central
    from coformer_runtime.central_options import CentralOptions
from tests.runtime import bundles

CORPUS = ROOT / "tests" / "runtime" / "corpus"
LONGEST = 4096


def main() -> None:
    """Fuzz until the time is over; atheris ends the process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("node", choices=("central", "worker"))
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--corpus", type=Path, help="where new inputs go")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        dirs = bundles.make_cluster(Path(directory) / "cluster")
        found = options.corpus or Path(directory) / "found"
        found.mkdir(exist_ok=True)
        words = [sys.argv[0], str(found), str(CORPUS / options.node)]
        words += [f"-max_total_time={options.seconds}", f"-max_len={LONGEST}", "-timeout=5", "-print_final_stats=1"]
        # Resident memory is not limited: a process begins with the peak of the one that started it, which may be large.
        words += [f"-artifact_prefix={options.node}-", "-rss_limit_mb=0", "-malloc_limit_mb=512"]
        with Central(open_bundle(dirs[0]), CentralOptions((), 1000, 1)) as central:
            manifest = open_bundle(dirs[1]).manifest
            target = (
                fuzz_targets.central_target(central)
                if options.node == "central"
                else fuzz_targets.worker_target(manifest)
            )
            atheris.Setup(words, lambda data: target(data) and None)
            atheris.Fuzz()


if __name__ == "__main__":
    main()
