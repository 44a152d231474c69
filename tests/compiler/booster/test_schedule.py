"""Draws depend on their address alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coformer_compiler.booster.schedule import (
    batch_indices,
    learning_rate_factor,
    subset_of_step,
    view_indices,
)
from coformer_compiler.model.aggregator import subsets_of


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 2**31), st.integers(0, 3))
def test_every_epoch_visits_every_sample_once(samples: int, batch: int, seed: int, phase: int) -> None:
    steps = -(-2 * samples // batch)
    visited = np.concatenate([batch_indices(samples, batch, seed, phase, step) for step in range(steps)])
    assert len(visited) == steps * batch
    for epoch in (visited[:samples], visited[samples : 2 * samples]):
        assert sorted(epoch) == list(range(samples))


def test_order_depends_on_seed_phase_and_step_and_on_nothing_before() -> None:
    first = batch_indices(50, 50, 1, 0, 3)
    assert np.array_equal(batch_indices(50, 50, 1, 0, 3), first)
    for other in ((2, 0, 3), (1, 1, 3), (1, 0, 4)):
        assert not np.array_equal(batch_indices(50, 50, *other), first)


def test_learning_rate_rises_then_falls_to_nearly_nothing() -> None:
    factors = [learning_rate_factor(step, 200) for step in range(200)]
    assert factors[:10] == pytest.approx([(i + 1) / 10 for i in range(10)], abs=1e-2)
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert 0 < factors[-1] < 1e-3
    assert learning_rate_factor(0, 1) == 1


def test_everyone_takes_part_most_often_and_every_subset_sometimes() -> None:
    subsets = subsets_of(3)
    drawn = [subset_of_step(subsets, 0.5, 0, 4, step) for step in range(400)]
    assert 150 < drawn.count((0, 1, 2)) < 250
    assert set(drawn) == set(subsets)
    assert subset_of_step(subsets_of(1), 0.5, 0, 4, 0) == (0,)


@pytest.mark.parametrize(("drop", "whole"), [(0.0, 400), (0.1, 360), (1.0, 0)])
def test_members_are_dropped_as_often_as_was_asked(drop: float, whole: int) -> None:
    drawn = [subset_of_step(subsets_of(3), drop, 0, 4, step) for step in range(400)]
    assert drawn.count((0, 1, 2)) == pytest.approx(whole, abs=20 * (0 < drop < 1))


def test_views_are_drawn_alike_and_one_view_is_always_taken() -> None:
    drawn = view_indices(8, 800, 0, 0, 0)
    assert drawn.min() == 0 and drawn.max() == 7 and 60 < (drawn == 3).sum() < 140
    assert not view_indices(1, 5, 0, 0, 0).any()
