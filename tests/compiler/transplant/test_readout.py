"""Closed-form readouts: an aggregator per subset, a head per member."""

from __future__ import annotations

import pytest
import torch

from coformer_compiler.model.aggregator import Subset, subsets_of
from coformer_compiler.model.transformer import Transformer
from coformer_compiler.transplant.readout import fit_readouts
from coformer_compiler.transplant.regression import SplitGram, ridge
from tests.compiler.tiny import random_inputs, random_model, tiny_spec

SAMPLES = 150


def random_members() -> list[Transformer]:
    return [random_model(tiny_spec(embed=embed, neurons=9), seed=embed) for embed in (5, 4, 6)]


@torch.no_grad()
def lesson() -> tuple[Transformer, torch.Tensor, torch.Tensor]:
    teacher = random_model(tiny_spec(), seed=1)
    pixels = random_inputs(teacher.spec, SAMPLES)
    return teacher, pixels, teacher.features(pixels)


def priors_of(members: list[Transformer], width: int) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(5)
    return [torch.randn(width, member.spec.features, generator=random, dtype=torch.float64) for member in members]


@pytest.mark.parametrize("with_priors", [False, True])
@pytest.mark.parametrize("subset", subsets_of(3))
@torch.no_grad()
def test_each_subset_is_a_fit_of_its_own(subset: Subset, with_priors: bool) -> None:
    """The same as a regression on this subset's features alone, from the start."""
    members, (teacher, pixels, wanted) = random_members(), lesson()
    priors = priors_of(members, wanted.shape[1]) if with_priors else None
    aggregator = fit_readouts(members, teacher.head, [(pixels, wanted)], priors)
    features = torch.cat([members[n].features(pixels) for n in subset], 1)
    gram = SplitGram(features.shape[1], wanted.shape[1])
    gram.add(features, wanted, 0)
    fit = ridge(gram, None if priors is None else torch.cat([priors[n] for n in subset], 1) / len(subset))
    torch.testing.assert_close(aggregator.mixer(subset).weight, fit.weight.float(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(aggregator.mixer(subset).bias, fit.bias.float(), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_members_head_is_its_own_subset_and_the_inherited_head() -> None:
    members, (teacher, pixels, wanted) = random_members(), lesson()
    aggregator = fit_readouts(members, teacher.head, [(pixels, wanted)])
    for n, member in enumerate(members):
        torch.testing.assert_close(member(pixels), aggregator({n: member.features(pixels)}), atol=1e-4, rtol=1e-4)
    assert torch.equal(aggregator.head.linear.weight, teacher.head.linear.weight)


@torch.no_grad()
def test_more_members_know_more() -> None:
    """On the samples of the fit a larger subset is nearer to the teacher."""
    members, (teacher, pixels, wanted) = random_members(), lesson()
    aggregator = fit_readouts(members, teacher.head, [(pixels, wanted)])
    features = {n: member.features(pixels) for n, member in enumerate(members)}

    def error(subset: Subset) -> float:
        mixed = aggregator.mixer(subset)(torch.cat([features[n] for n in subset], 1))
        return float((mixed - wanted).square().mean())

    assert error((0, 1, 2)) < min(error((0,)), error((1,)), error((2,)))


@pytest.mark.parametrize("batch", [1, 7, 64])
@torch.no_grad()
def test_the_size_of_batches_does_not_matter(batch: int) -> None:
    members, (teacher, pixels, wanted) = random_members(), lesson()
    once = fit_readouts(members, teacher.head, [(pixels, wanted)])
    pieces = fit_readouts(members, teacher.head, zip(pixels.split(batch), wanted.split(batch), strict=True))
    features = {n: member.features(pixels) for n, member in enumerate(members)}
    for subset in once.subsets:
        part = {n: features[n] for n in subset}
        torch.testing.assert_close(once(part), pieces(part), atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_a_member_that_is_the_teacher_reads_out_exactly() -> None:
    teacher, pixels, wanted = lesson()
    member = random_model(tiny_spec(), seed=1)
    aggregator = fit_readouts([member], teacher.head, [(pixels, wanted)])
    torch.testing.assert_close(aggregator({0: wanted}), teacher(pixels), atol=1e-3, rtol=0)
    torch.testing.assert_close(member(pixels), teacher(pixels), atol=1e-3, rtol=0)
