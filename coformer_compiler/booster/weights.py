"""Eq. (13): how much each training sample counts for the next member."""

from __future__ import annotations

import torch

from coformer_compiler.booster.options import Weighting

LOSS_CEILING = 2.0
"""A loss above this counts as this: one update raises a weight by e² at most. Unclipped, the last member
fell to chance."""

FLOOR = 0.5
"""Share of the weight that stays equal over all samples, so that no member forgets the easy ones."""


def equal_weights(samples: int) -> torch.Tensor:
    """W_1 of Algorithm 1, line 12: 1/M each, float64 `(samples,)`."""
    return torch.full((samples,), 1 / samples, dtype=torch.float64)


def next_weights(weights: torch.Tensor, losses: torch.Tensor, classes: int, weighting: Weighting) -> torch.Tensor:
    """W_{n+1} from W_n and the losses of member n.

    - "none": unchanged.
    - "paper": eq. (13) as printed, w · exp((1/M − 1) · loss) with M samples. It lowers hard samples.
    - "samme-r": w · exp((1 − 1/R) · loss) with R classes, the rule that eq. (13) resembles. It raises hard samples;
      losses are clipped, the weights normalised to sum 1 and mixed with equal ones.

    The loss is eq. (14) without its factor W_n: with it the exponent would be of the order of 1/M.

    Args:
        weights: float64 `(samples,)`.
        losses: per sample `(samples,)`, unweighted.
        classes: R.
        weighting: which rule.
    """
    if weighting == "none":
        return weights
    losses = losses.to(weights)
    samples = len(weights)
    if weighting == "paper":
        return weights * torch.exp((1 / samples - 1) * losses)
    raised = weights * torch.exp((1 - 1 / classes) * losses.clamp(max=LOSS_CEILING))
    return (1 - FLOOR) * raised / raised.sum() + FLOOR / samples
