"""Choosing tokens: the likeliest, and draws that keep to temperature, top-k and top-p."""

import collections
from typing import Any, Dict

import numpy as np
import pytest

from coformer_runtime.errors import CoformerError
from coformer_runtime.sampling import Sampler, Sampling

CHANCES = np.array([0.1, 0.4, 0.05, 0.3, 0.15])
LOGITS = np.log(CHANCES).astype(np.float32)


def shares(options: Sampling, draws: int = 4000) -> Dict[int, float]:
    sampler = Sampler(options)
    found = collections.Counter(sampler.choose(LOGITS) for _ in range(draws))
    return {number: count / draws for number, count in found.items()}


def test_greedy_takes_the_first_of_the_likeliest() -> None:
    assert Sampler(Sampling()).choose(np.array([0.0, 2.0, 2.0], np.float32)) == 1


def test_draws_have_the_chances() -> None:
    found = shares(Sampling(1.0, seed=3))
    for number, chance in enumerate(CHANCES):
        assert found[number] == pytest.approx(chance, abs=0.03)


def test_a_temperature_sharpens() -> None:
    sharp = CHANCES**2 / (CHANCES**2).sum()
    assert shares(Sampling(0.5, seed=3))[1] == pytest.approx(sharp[1], abs=0.03)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (Sampling(1.0, top_k=2, seed=1), {1, 3}),
        (Sampling(1.0, top_k=9, seed=1), {0, 1, 2, 3, 4}),
        (Sampling(1.0, top_p=0.65, seed=1), {1, 3}),
        (Sampling(1.0, top_p=0.72, seed=1), {1, 3, 4}),
        (Sampling(1.0, top_p=0.01, seed=1), {1}),
        (Sampling(1.0, top_k=3, top_p=0.5, seed=1), {1, 3}),
    ],
)
def test_what_is_drawn_among(options: Sampling, kept: set) -> None:
    assert set(shares(options)) == kept


def test_a_seed_draws_the_same_again() -> None:
    one, two = Sampler(Sampling(1.0, seed=7)), Sampler(Sampling(1.0, seed=7))
    assert [one.choose(LOGITS) for _ in range(50)] == [two.choose(LOGITS) for _ in range(50)]


@pytest.mark.parametrize(
    "options", [{"temperature": -0.1}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}]
)
def test_what_is_refused(options: Dict[str, Any]) -> None:
    with pytest.raises(CoformerError, match=next(iter(options))):
        Sampler(Sampling(**options))
