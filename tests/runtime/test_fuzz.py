"""What fuzzing has found worth keeping is sent again: to the handlers of a central node and of a worker."""

import importlib.util
import random
import subprocess
import sys
from pathlib import Path
from typing import Any, List

import pytest

from benchmarks.service import fuzz, fuzz_targets
from coformer_runtime import breaker, link, wire
from coformer_runtime.bundle import open_bundle
from coformer_runtime.central import Central
from coformer_runtime.central_options import CentralOptions
from tests.runtime import bundles

CORPUS = Path(__file__).with_name("corpus")
GUIDED = Path(fuzz.__file__).with_name("fuzz_guided.py")


def test_the_corpus_at_the_central_node(cluster_dirs: List[str]) -> None:
    with Central(open_bundle(cluster_dirs[0]), CentralOptions((), 10_000, 1)) as central:
        target = fuzz_targets.central_target(central)
        codes = {code for path in sorted((CORPUS / "central").iterdir()) for code in target(path.read_bytes())}
    assert codes == {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "stream INVALID_ARGUMENT"}


def test_the_corpus_at_a_worker(cluster_dirs: List[str]) -> None:
    target = fuzz_targets.worker_target(open_bundle(cluster_dirs[1]).manifest)
    said = {path.stem: target(path.read_bytes()) for path in sorted((CORPUS / "worker").iterdir())}
    assert said["two"][:3] == ["hello", "features", "features"]
    assert said["other-build"][:2] == ["hello", "failure 2"]
    assert said["no-hello"][0] == said["cut"][1] == "failure 1"
    assert said["echo"] == ["hello", "echo", "features", "submit INVALID_ARGUMENT"]
    assert said["submit"][-1] == "submit UNAVAILABLE" and said["submit-other-build"][-1] == "submit FAILED_PRECONDITION"


def test_streams_are_framed_both_ways() -> None:
    frames = [b"", b"a", b"bc" * 100]
    assert fuzz_targets.frames_of(fuzz_targets.stream_of(frames)) == frames
    assert fuzz_targets.frames_of(b"\xff\xff\xff\xffab") == [b"ab"] and fuzz_targets.frames_of(b"\x01") == []


@pytest.mark.parametrize("told", ["", "Traceback"])
def test_a_fault_is_one(told: str) -> None:
    with pytest.raises(fuzz_targets.Fault):
        fuzz_targets.judge(not told, told, float("inf"))


@pytest.mark.parametrize(
    ("part", "kind", "share"), fuzz.PARTS, ids=[each[0].__name__ + "-" + each[1] for each in fuzz.PARTS]
)
def test_a_little_of_each_part(part: Any, kind: str, share: float, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(breaker, "OPEN_S", 0.0)
    with part(tmp_path, random.Random(1), kind) as (target, made):
        found = fuzz.fuzz(target, made, 400)
    assert found["failures"] == [] and found["messages"] >= 400 and share > 0
    words = {"central_part": {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "stream INVALID_ARGUMENT"},
             "worker_part": {"hello", "echo", "features", "failure 1", "failure 2"},
             "link_part": {"claimed", "refused", "features", "broken", "late"}}  # fmt: skip
    assert words[part.__name__] <= set(found["replies"])


def test_the_parts_make_200_000_messages() -> None:
    assert sum(share for _, _, share in fuzz.PARTS) == pytest.approx(1)


def test_faults_of_a_link_are_seen(cluster_dirs: List[str], monkeypatch: Any) -> None:
    bundle, manifest = open_bundle(cluster_dirs[0]), open_bundle(cluster_dirs[1]).manifest
    hello = wire.encode_frame(wire.hello_frame(manifest, "0"))
    features = wire.encode_frame(
        wire.tensor_frame(wire.FEATURES, 5, manifest.build, bundles.features_of(1, bundles.golden_pixels()[:1]))
    )
    said = fuzz_targets.stream_of([hello, features, features])
    with fuzz_targets.link_target(bundle) as target:
        assert target(said) == ["claimed", "features", "broken"] and target.looked.messages == 3
        receive = link.WorkerLink._receive
        monkeypatch.setattr(link.WorkerLink, "_receive", lambda self, frame: 1 / 0)
        with pytest.raises(fuzz_targets.Fault, match="internal error"):
            target(said)
        monkeypatch.setattr(link.WorkerLink, "_receive", receive)
        assert target(said) == ["claimed", "features", "broken"]


@pytest.mark.slow
@pytest.mark.parametrize("node", ["central", "worker"])
def test_led_by_coverage(node: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed")
    words = [sys.executable, str(GUIDED), node, "--seconds", "10"]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=str(tmp_path), check=False)
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-3000:]
    assert b"stat::number_of_executed_units" in done.stdout and list(tmp_path.iterdir()) == []
