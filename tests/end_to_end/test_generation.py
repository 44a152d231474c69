"""Texts that a cluster of real processes continues: the same tokens as torch, and what ends a text."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from coformer_compiler.commands.build_folder import open_build
from coformer_compiler.model.system import System, load_system
from coformer_runtime.cluster import LocalCluster
from coformer_runtime.errors import CheckFailed, CoformerError
from coformer_runtime.sampling import GREEDY, Sampling
from tests.compiler.texts import write_causal_config
from tests.end_to_end.tiny import coformerc
from tests.runtime.test_stock_client import CLEAN, stock_python

__all__ = ["stock_python"]

pytestmark = pytest.mark.slow
LENGTH, WORDS, END = 96, 50, 0
PIECES = 19  # tokens of a prompt, more than a prefill graph takes at once


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generation")
    config = write_causal_config(folder)
    outcome = coformerc("build", config, "-o", folder / "out")
    assert outcome.code == 0, outcome.err
    return folder / "out"


def bundles(built: Path) -> list[str]:
    return [str(built / "bundles" / name) for name in ("attic", "hall", "desk")]


def system_of(built: Path) -> System:
    return load_system(open_build(built).system)


@torch.no_grad()
def reference(system: System, prompt: np.ndarray, count: int, subset: tuple[int, ...] = (0, 1, 2)) -> list[int]:
    """Greedy tokens of the assembled system in torch, all of the text computed anew for each."""
    text = list(map(int, prompt))
    for _ in range(count):
        ids = torch.full((1, LENGTH), WORDS, dtype=torch.int32)
        ids[0, : len(text)] = torch.tensor(text)
        features = system.sent(ids)
        text.append(int(system.aggregator({n: features[n] for n in subset}).argmax()))
    return text[len(prompt) :]


def prompt_without_end(system: System, count: int, subset: tuple[int, ...] = (0, 1, 2)) -> tuple[np.ndarray, list[int]]:
    """A prompt whose next `count` tokens do not end the text, and these tokens."""
    for seed in range(40):
        prompt = np.random.default_rng(seed).integers(1, WORDS, PIECES).astype(np.int32)
        wanted = reference(system, prompt, count, subset)
        if END not in wanted and len(set(wanted)) > 2:
            return prompt, wanted
    raise AssertionError("every text ends early")


def test_64_tokens_are_those_of_torch(built: Path) -> None:
    prompt, wanted = prompt_without_end(system_of(built), 64)
    with LocalCluster(bundles(built), deadline_ms=20000) as cluster, cluster.client() as client:
        found = list(client.generate(prompt, 64))
        assert [token.number for token in found] == wanted
        assert [token.last for token in found] == [False] * 63 + [True]
        assert all(token.members == ("attic", "hall", "desk") and not token.degraded for token in found)
        drawn = [
            [token.number for token in client.generate(prompt, 12, Sampling(1.5, 20, 0.9, seed))] for seed in (1, 1, 2)
        ]
        assert drawn[0] == drawn[1] != drawn[2]


def test_what_a_cluster_refuses(built: Path) -> None:
    with LocalCluster(bundles(built), deadline_ms=20000) as cluster, cluster.client() as client:

        def refused(prompt: list[int], max_tokens: int, sampling: Sampling = GREEDY) -> str:
            with pytest.raises(CoformerError) as caught:
                list(client.generate(np.array(prompt, np.int32), max_tokens, sampling))
            return str(caught.value)

        assert "the prompt is empty" in refused([], 4)
        assert "the prompt has tokens from 50 to 50" in refused([50], 4)
        assert "90 tokens of the prompt and 8 new ones, the members' context holds 96" in refused([1] * 90, 8)
        assert "ask for at most 7 tokens" in refused([1] * 90, 8)
        assert "send at most 96 tokens" in refused([1] * 97, 1)
        assert "max_tokens is 0" in refused([1], 0)
        assert "temperature is -1.0" in refused([1], 1, Sampling(-1.0))
        assert len(list(client.generate(np.array([1] * 90, np.int32), 7))) <= 7


def test_a_lost_member_ends_the_text(built: Path) -> None:
    prompt, wanted = prompt_without_end(system_of(built), 64)
    with LocalCluster(bundles(built), deadline_ms=20000) as cluster, cluster.client() as client:
        found: list[int] = []

        def read_on() -> None:
            for token in client.generate(prompt, 64):
                found.append(token.number)
                if len(found) == 5:
                    cluster.kill("desk")

        with pytest.raises(CheckFailed, match=r"missing: desk") as caught:
            read_on()
        assert "UNAVAILABLE" in caught.value.where
        assert 5 <= len(found) < 64 and found == wanted[: len(found)]


def test_a_text_goes_on_with_a_subset(built: Path) -> None:
    prompt, _ = prompt_without_end(system_of(built), 64)
    with LocalCluster(bundles(built), deadline_ms=20000, min_members=2) as cluster, cluster.client() as client:
        found = []
        for token in client.generate(prompt, 64):
            found.append(token)
            if len(found) == 5:
                cluster.kill("desk")
                cluster.restart("desk")
    together = next(n for n, token in enumerate(found) if token.degraded)
    assert together >= 5 and all(token.members == ("attic", "hall") for token in found[together:])
    text = np.concatenate([prompt, [token.number for token in found[:together]]])
    wanted = reference(system_of(built), text, len(found) - together, (0, 1))
    assert [token.number for token in found[together:]] == wanted


def test_run_prints_the_text_as_it_comes(built: Path) -> None:
    outcome = coformerc("run", built, "--text", "game of strategy", "--max-tokens", 6)
    assert outcome.code == 0, outcome.err
    answer = json.loads(coformerc("run", built, "--json", "--text", "game of strategy", "--max-tokens", 6).out)
    assert outcome.out.strip() == answer["text"].strip() and len(answer["tokens"]) <= 6
    assert "the prompt is empty" in coformerc("run", built, "--text", " ", "--max-tokens", 6).err
    assert "the members' context holds 96" in coformerc("run", built, "--text", "game", "--max-tokens", 600).err


def test_a_stock_client_streams(built: Path, stock_python: str) -> None:
    script = Path(__file__).with_name("stock_stream.py")
    with LocalCluster(bundles(built), deadline_ms=20000) as cluster, cluster.client() as client:
        done = subprocess.run(
            [stock_python, str(script), cluster.address], stdout=subprocess.PIPE, env=CLEAN, check=True, timeout=120
        )
        wanted = [token.number for token in client.generate(np.array([3, 1, 4], np.int32), 5)]
    seen = json.loads(done.stdout)
    assert seen["greedy"] == [wanted, "7"] == seen["again"]
    assert seen["refused"][0] == [] and "[INVALID_ARGUMENT]" in seen["refused"][1]
    assert "the members' context holds 96" in seen["refused"][1]
    assert "known are max_tokens, seed, temperature, top_k, top_p" in seen["unknown"][1]
