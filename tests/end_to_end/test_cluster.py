"""The bundles of a build, served by processes of their own: the same answer as torch, and what a lost board does."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from coformer_compiler.model.system import System, load_system
from coformer_runtime.cluster import LocalCluster
from coformer_runtime.errors import CoformerError

DEVICES = ("attic", "hall", "desk")


@pytest.fixture
def system(out: Path) -> System:
    return load_system(next((out / "cache" / "boost").iterdir()))


def cluster(out: Path, min_members: int | None = None) -> LocalCluster:
    bundles = [str(out / "bundles" / device) for device in DEVICES]
    return LocalCluster(bundles, deadline_ms=3000, min_members=min_members)


@torch.no_grad()
def torch_answer(system: System, pixels: np.ndarray, members: tuple[int, ...]) -> np.ndarray:
    features = system.features(torch.from_numpy(pixels))
    return system.aggregator({n: features[n] for n in members}).numpy()


def test_the_cluster_answers_as_torch_does_and_names_a_killed_worker(out: Path, system: System) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (5, 1, 8, 8), dtype=np.uint8)
    wanted = torch_answer(system, pixels, (0, 1, 2))
    with cluster(out) as local, local.client() as client:
        for case in range(5):
            answer = client.infer(pixels[case : case + 1])
            np.testing.assert_allclose(answer.logits[0], wanted[case], atol=1e-4)
            assert answer.members == DEVICES and not answer.degraded
        os.kill(local.pids["desk"], signal.SIGKILL)
        with pytest.raises(CoformerError, match="missing: desk "):
            client.infer(pixels[:1])


def test_with_min_members_the_others_go_on(out: Path, system: System) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (1, 1, 8, 8), dtype=np.uint8)
    with cluster(out, min_members=2) as local, local.client() as client:
        os.kill(local.pids["desk"], signal.SIGKILL)
        answer = client.infer(pixels)
        assert answer.degraded and answer.members == ("attic", "hall")
        assert list(answer.missing) == ["desk"]
        np.testing.assert_allclose(answer.logits, torch_answer(system, pixels, (0, 1)), atol=1e-4)
        os.kill(local.pids["attic"], signal.SIGKILL)
        with pytest.raises(CoformerError, match=r"attic \(.*desk \("):
            client.infer(pixels)
