"""What fuzzing has found worth keeping is sent again: to the handlers of a central node and of a worker."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import List

import pytest

from benchmarks.service import fuzz
from coformer_runtime.bundle import open_bundle
from coformer_runtime.central import Central
from coformer_runtime.central_options import CentralOptions

CORPUS = Path(__file__).with_name("corpus")
GUIDED = Path(fuzz.__file__).with_name("fuzz_guided.py")


def test_the_corpus_at_the_central_node(cluster_dirs: List[str]) -> None:
    with Central(open_bundle(cluster_dirs[0]), CentralOptions((), 10_000, 1)) as central:
        target = fuzz.central_target(central)
        codes = {code for path in sorted((CORPUS / "central").iterdir()) for code in target(path.read_bytes())}
    assert codes == {"OK", "INVALID_ARGUMENT", "NOT_FOUND"}


def test_the_corpus_at_a_worker(cluster_dirs: List[str]) -> None:
    target = fuzz.worker_target(open_bundle(cluster_dirs[1]).manifest)
    said = {path.stem: target(path.read_bytes()) for path in sorted((CORPUS / "worker").iterdir())}
    assert said["two"][:3] == ["hello", "features", "features"]
    assert said["other-build"][:2] == ["hello", "failure 2"]
    assert said["no-hello"][0] == said["cut"][1] == "failure 1"
    assert said["submit"][-1] == "submit UNAVAILABLE" and said["submit-other-build"][-1] == "submit FAILED_PRECONDITION"


def test_streams_are_framed_both_ways() -> None:
    frames = [b"", b"a", b"bc" * 100]
    assert fuzz.frames_of(fuzz.stream_of(frames)) == frames
    assert fuzz.frames_of(b"\xff\xff\xff\xffab") == [b"ab"] and fuzz.frames_of(b"\x01") == []


@pytest.mark.parametrize("told", ["", "Traceback"])
def test_a_fault_is_one(told: str) -> None:
    with pytest.raises(fuzz.Fault):
        fuzz._judge(not told, told, float("inf"))


@pytest.mark.slow
@pytest.mark.parametrize("node", ["central", "worker"])
def test_led_by_coverage(node: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed")
    words = [sys.executable, str(GUIDED), node, "--seconds", "10"]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=str(tmp_path), check=False)
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-3000:]
    assert b"stat::number_of_executed_units" in done.stdout and list(tmp_path.iterdir()) == []
