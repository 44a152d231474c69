"""Draws depend on their address alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coformer_compiler.booster.batches import shifted
from coformer_compiler.booster.schedule import batch_indices, learning_rate_factor, shifts, subset_of_step
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
    drawn = [subset_of_step(subsets, 0, 4, step) for step in range(400)]
    assert 150 < drawn.count((0, 1, 2)) < 250
    assert set(drawn) == set(subsets)
    assert subset_of_step(subsets_of(1), 0, 4, 0) == (0,)


def test_shifts_stay_within_an_eighth_of_the_side() -> None:
    drawn = shifts(500, 16, 32, 0, 0, 0)
    assert drawn.shape == (500, 2)
    assert (drawn.min(0).tolist(), drawn.max(0).tolist()) == ([-2, -4], [2, 4])


def test_a_shifted_image_repeats_its_edge() -> None:
    image = torch.arange(9, dtype=torch.uint8).reshape(1, 1, 3, 3)
    down = shifted(image, torch.tensor([[1, 0]]))
    left = shifted(image, torch.tensor([[0, -1]]))
    assert down[0, 0].tolist() == [[0, 1, 2], [0, 1, 2], [3, 4, 5]]
    assert left[0, 0].tolist() == [[1, 2, 2], [4, 5, 5], [7, 8, 8]]
    both = shifted(torch.cat([image, image]), torch.tensor([[0, 0], [1, 0]]))
    assert torch.equal(both, torch.cat([image, down]))
