"""Closed-form readouts: the aggregator's mixers and the members' own heads, fitted to the teacher's features."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from coformer_compiler.model.aggregator import Aggregator
from coformer_compiler.model.head import Head
from coformer_compiler.model.transformer import Transformer
from coformer_compiler.transplant.regression import Fit, SplitGram, ridge


@torch.no_grad()
def fit_readouts(
    members: Sequence[Transformer],
    head: Head,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    priors: Sequence[torch.Tensor] | None = None,
) -> Aggregator:
    """Fit every member's head in place and return the aggregator of all subsets.

    One pass over the samples: all fits index one Gram of the concatenated features.

    Args:
        members: models whose `features` are final; their `head` is replaced.
        head: the teacher's head.
        batches: (inputs of the members, teacher features `(batch, features)`, of causal models with an axis of tokens).
        priors: per member, `(teacher features, member features)` to pull the fits towards: what a fresh transplant
            knows of its own basis. A subset's prior is the mean over its members.
    """
    widths = [member.spec.features for member in members]
    device = head.linear.weight.device
    gram = SplitGram(sum(widths), head.features, device)
    first = 0
    for inputs, wanted in batches:
        weights = members[0].feature_mask(inputs)
        gram.add(torch.cat([member.features(inputs) for member in members], -1), wanted, first, weights)
        first += len(inputs)
    aggregator = Aggregator(widths, head).to(device)
    for subset in aggregator.subsets:
        fit = readout_of(gram, aggregator.columns(subset), subset, priors)
        aggregator.mixer(subset).weight.copy_(fit.weight)
        aggregator.mixer(subset).bias.copy_(fit.bias)
    for n, member in enumerate(members):
        fit = readout_of(gram, aggregator.columns((n,)), (n,), priors)
        member.head = head.after(fit.weight, fit.bias)
    return aggregator


def readout_of(
    gram: SplitGram, columns: Sequence[int], subset: Sequence[int], priors: Sequence[torch.Tensor] | None
) -> Fit:
    """The fit of the teacher's features on those of a subset of members.

    Args:
        gram: from all members' concatenated features to the teacher's.
        columns: of the subset in it.
        subset: members.
        priors: see `fit_readouts`.
    """
    prior = None if priors is None else torch.cat([priors[n] for n in subset], 1) / len(subset)
    return ridge(gram.select(columns), prior)
