"""Eq. (13) in its three readings, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coformer_compiler.booster.weights import FLOOR, equal_weights, next_weights

LOSSES = torch.tensor([0.0, 1.0, 2.0, 4.0])


def test_all_samples_start_equal() -> None:
    assert equal_weights(4).tolist() == [0.25] * 4


def test_none_changes_nothing() -> None:
    weights = equal_weights(4)
    assert next_weights(weights, LOSSES, 10, "none") is weights


def test_paper_is_the_formula_as_printed() -> None:
    found = next_weights(equal_weights(4), LOSSES, 10, "paper")
    wanted = [0.25 * math.exp((1 / 4 - 1) * loss) for loss in (0, 1, 2, 4)]
    assert found.tolist() == pytest.approx(wanted, rel=1e-12)


def test_samme_r_raises_what_was_hard_clipped_normalised_and_with_a_floor() -> None:
    found = next_weights(equal_weights(4), LOSSES, 10, "samme-r")
    raised = [math.exp(0.9 * loss) for loss in (0, 1, 2, 2)]
    wanted = [0.5 * r / sum(raised) + 0.5 / 4 for r in raised]
    assert found.tolist() == pytest.approx(wanted, rel=1e-12)


@given(st.lists(st.floats(0, 100), min_size=2, max_size=30), st.integers(2, 1000), st.integers(1, 4))
def test_samme_r_stays_a_distribution_that_forgets_nobody(losses: list[float], classes: int, rounds: int) -> None:
    weights = equal_weights(len(losses))
    for _ in range(rounds):
        weights = next_weights(weights, torch.tensor(losses), classes, "samme-r")
    assert float(weights.sum()) == pytest.approx(1)
    assert float(weights.min()) >= FLOOR / len(losses) * (1 - 1e-9)
    for easy in range(len(losses)):
        for hard in range(len(losses)):
            assert losses[easy] >= losses[hard] or weights[easy] <= weights[hard] + 1e-12
