"""What happens at which step: learning rate, samples, shifts, dropped members.

Every draw is a function of (seed, purpose, phase, index) through a counter-based generator. No generator has a
state, so a run that is resumed at a step, or spread over processes, draws what an uninterrupted one draws there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from coformer_compiler.model.aggregator import Subset

Indices = npt.NDArray[np.int64]

ORDER, VIEW, PICK, SUBSET = range(4)
"""Purposes of a draw."""

WARM_UP = 0.05
"""Share of the steps in which the learning rate rises."""


def draws(seed: int, purpose: int, phase: int, index: int) -> np.random.Generator:
    """A generator of its own for each use; Philox's counter is its address."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, purpose, phase, index]))


def learning_rate_factor(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine that would reach zero at `steps`."""
    warm_up = max(1, math.ceil(WARM_UP * steps))
    return min((step + 1) / warm_up, (1 + math.cos(math.pi * step / steps)) / 2)


@lru_cache(maxsize=2)
def epoch_order(samples: int, seed: int, phase: int, epoch: int) -> Indices:
    """The order in which an epoch visits the samples."""
    order = draws(seed, ORDER, phase, epoch).permutation(samples)
    order.flags.writeable = False
    return order


def batch_indices(samples: int, batch: int, seed: int, phase: int, step: int) -> Indices:
    """The samples of a step, int64 `(batch,)`: epochs follow one another without a short batch between them."""
    picked = []
    first, last = step * batch, (step + 1) * batch
    for epoch in range(first // samples, (last - 1) // samples + 1):
        start = epoch * samples
        picked.append(epoch_order(samples, seed, phase, epoch)[max(first - start, 0) : min(last - start, samples)])
    return np.concatenate(picked)


def view_indices(views: int, batch: int, seed: int, phase: int, step: int) -> Indices:
    """Which view of each sample a step takes, int64 `(batch,)`."""
    return draws(seed, PICK, phase, step).integers(views, size=batch)


def subset_of_step(subsets: Sequence[Subset], drop: float, seed: int, phase: int, step: int) -> Subset:
    """Who takes part in a joint step: everyone (the first subset), or with probability `drop` any of the others."""
    random = draws(seed, SUBSET, phase, step)
    if len(subsets) == 1 or random.random() < 1 - drop:
        return subsets[0]
    return subsets[1 + int(random.integers(len(subsets) - 1))]
