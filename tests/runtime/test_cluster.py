"""A cluster of real processes: it answers, it loses members, and it leaves nothing behind."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import List

import numpy as np
import pytest

from coformer_runtime.bundle import open_bundle
from coformer_runtime.cluster import LocalCluster
from coformer_runtime.errors import CheckFailed, CoformerError
from tests.runtime import bundles
from tests.runtime.nodes import EVERYONE, PIXELS, settled


def gone(pid: int) -> bool:
    return not Path("/proc/{}".format(pid)).exists()


def test_answers_and_ends(cluster_dirs: List[str]) -> None:
    with LocalCluster([cluster_dirs[2], cluster_dirs[0], cluster_dirs[1]]) as cluster:
        pids = cluster.pids
        assert sorted(pids) == sorted(bundles.DEVICES)
        with cluster.client() as client:
            answer = client.infer(PIXELS)
        np.testing.assert_allclose(answer.logits, bundles.answer_of(EVERYONE, PIXELS), rtol=1e-4, atol=1e-4)
        os.kill(pids["hall"], signal.SIGTERM)
        settled(lambda: "State:\tZ" in Path("/proc/{}/status".format(pids["hall"])).read_text())
    assert all(gone(pid) for pid in pids.values())


def test_loses_members_by_name(cluster_dirs: List[str]) -> None:
    with LocalCluster(cluster_dirs, deadline_ms=300) as cluster, cluster.client() as client:
        client.infer(PIXELS)
        os.kill(cluster.pids["hall"], signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(CheckFailed, match=r"missing: hall \(late: no answer within"):
            client.infer(PIXELS)
        assert time.monotonic() - started < 0.6
        os.kill(cluster.pids["hall"], signal.SIGCONT)
        assert client.infer(PIXELS).members == bundles.DEVICES
        os.kill(cluster.pids["desk"], signal.SIGKILL)
        settled(lambda: not client.ready())
        with pytest.raises(CheckFailed, match=r"missing: desk \(unreachable: 127.0.0.1:\d+ "):
            client.infer(PIXELS)


def test_goes_on_with_min_members(cluster_dirs: List[str]) -> None:
    with LocalCluster(cluster_dirs, min_members=2) as cluster, cluster.client() as client:
        assert not client.infer(PIXELS).degraded
        os.kill(cluster.pids["desk"], signal.SIGKILL)
        settled(lambda: client.infer(PIXELS).degraded)
        answer = client.infer(PIXELS)
    assert answer.members == ("attic", "hall")
    assert answer.missing["desk"].startswith("unreachable: ")
    np.testing.assert_allclose(answer.logits, bundles.answer_of((0, 1), PIXELS), rtol=1e-4, atol=1e-4)


def test_concurrent_clients_get_their_own_answers(cluster_dirs: List[str]) -> None:
    random = np.random.default_rng(3)
    inputs = [random.integers(0, 256, PIXELS.shape, dtype=np.uint8) for _ in range(200)]
    with LocalCluster(cluster_dirs, deadline_ms=5000) as cluster, cluster.client() as client, ThreadPoolExecutor(
        12
    ) as pool:
        answers = list(pool.map(client.infer, inputs))
    for pixels, answer in zip(inputs, answers):
        np.testing.assert_allclose(answer.logits, bundles.answer_of(EVERYONE, pixels), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("script", ["soak.py", "footprint.py", "fuzz.py"])
def test_benchmark_stays_within_its_limits(tmp_path: Path, script: str) -> None:
    path = Path(__file__).parents[2] / "benchmarks" / "service" / script
    words = [sys.executable, str(path), "--output", str(tmp_path / "raw.json")]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    assert done.returncode == 0, done.stdout.decode()
    assert (tmp_path / "raw.json").stat().st_size > 0


def test_child_that_dies_tells_why(cluster_dirs: List[str], tmp_path: Path) -> None:
    damaged = Path(bundles.make_bundle(tmp_path / "desk", 2))
    graph = bytearray((damaged / "member.onnx").read_bytes())
    graph[20] ^= 1
    (damaged / "member.onnx").write_bytes(bytes(graph))
    cluster = LocalCluster([*cluster_dirs[:2], str(damaged)])
    with pytest.raises(CheckFailed) as caught, cluster:
        pass
    assert caught.value.what.startswith(
        "the process of 'desk' ended with exit code 2; it said: error: {}: 'member.onnx' has the SHA-256".format(
            damaged
        )
    )
    assert "-m coformer_runtime serve {}".format(damaged) in caught.value.where
    assert cluster.pids == {}


def test_children_end_with_their_parent(cluster_dirs: List[str]) -> None:
    cluster = LocalCluster(cluster_dirs)
    with cluster:
        pids = cluster.pids
        for child in cluster._children.values():
            child.process.stdin.close()  # what the death of this process would do
        settled(lambda: all(child.process.poll() == 0 for child in cluster._children.values()))
    assert all(gone(pid) for pid in pids.values())


def test_bundles_that_make_no_cluster(cluster_dirs: List[str], tmp_path: Path) -> None:
    with pytest.raises(CoformerError, match="no bundle was given"):
        LocalCluster([])
    with pytest.raises(CoformerError, match="no bundle for desk; add the bundles, or set min_members"):
        LocalCluster(cluster_dirs[:2])
    with pytest.raises(CoformerError, match="the central device 'attic' is not among the bundles"):
        LocalCluster(cluster_dirs[1:], min_members=1)
    with pytest.raises(CoformerError, match="two bundles are for the same device"):
        LocalCluster([*cluster_dirs, cluster_dirs[1]])
    other = bundles.make_bundle(tmp_path, 2, build="d" * 64)
    with pytest.raises(CoformerError, match=r"'attic' is of build bbbbbbbbbbbb\.\.\., 'desk' of dddddddddddd"):
        LocalCluster([*cluster_dirs[:2], other])
    assert open_bundle(other).manifest.build == "d" * 64
