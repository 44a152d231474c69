"""Transplanting random teachers: exact at full size, the same twice, whatever the batches and wherever the streams."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from coformer_compiler.decomposer.policy import LayerShare, MemberPolicy, teacher_shape
from coformer_compiler.model.aggregator import Aggregator
from coformer_compiler.model.spec import PatchStemSpec
from coformer_compiler.model.transformer import Transformer
from coformer_compiler.tasks import LANGUAGE
from coformer_compiler.transplant.basis import BasisKind
from coformer_compiler.transplant.lesson import lesson_with_walk
from coformer_compiler.transplant.readout import fit_readouts
from coformer_compiler.transplant.statistics import Statistics, statistics_from_batches
from coformer_compiler.transplant.transplant import Match, Transplanted, transplant, transplant_lesson
from tests.compiler.tiny import VARIANTS, random_inputs, random_model, tiny_spec, tiny_t5

SAMPLES = 200
BASES: tuple[BasisKind, ...] = ("global", "per-norm")
NEEDS_FINAL_NORM = pytest.mark.xfail(reason="the last basis leaves out the stream's mean, as a final LayerNorm would")
TEACHERS = [
    pytest.param(name, marks=NEEDS_FINAL_NORM if name == "no final norm" else ())
    for name, spec in VARIANTS.items()
    if not (isinstance(spec.stem, PatchStemSpec) and spec.stem.mix) and not spec.blocks[0].shortcut
]
NARROW = (
    MemberPolicy("a", 6, (LayerShare(0, (0,), (0, 3, 5, 7)), LayerShare(1, (1, 2), (1, 2, 19)))),
    MemberPolicy("b", 5, (LayerShare(1, (0,), (0, 4, 5, 6, 7)),)),
)


@cache
def lesson(name: str) -> tuple[Transformer, torch.Tensor, Statistics]:
    """A teacher, its calibration set and its statistics."""
    teacher = random_model(VARIANTS[name], seed=11)
    pixels = random_inputs(teacher.spec, SAMPLES, seed=12)
    return teacher, pixels, statistics_of(teacher, pixels)


def statistics_of(teacher: Transformer, inputs: torch.Tensor) -> Statistics:
    """Statistics with labels of some sort."""
    if teacher.spec.pool.kind == "causal":
        text = inputs[:, -teacher.texts.spec.tokens :]
        return statistics_from_batches(teacher, [(inputs, text.long() % teacher.spec.classes)], task=LANGUAGE)
    return statistics_from_batches(teacher, [(inputs, torch.arange(len(inputs)) % teacher.spec.classes)])


def full(teacher: Transformer, embed: int | None = None) -> MemberPolicy:
    shape = teacher_shape(teacher.spec)
    layers = (
        LayerShare(
            layer,
            tuple(range(shape.heads[layer])),
            tuple(range(shape.neurons[layer])),
            tuple(range(shape.cross[layer] if shape.cross else 0)),
        )
        for layer in range(shape.layers)
    )
    return MemberPolicy("all", embed or shape.embed, tuple(layers))


def run(name: str, policies: Sequence[MemberPolicy], basis: BasisKind, **options: int) -> Transplanted:
    teacher, pixels, statistics = lesson(name)
    return transplant(teacher, statistics, policies, pixels, basis=basis, **options)


@torch.no_grad()
def aggregated(name: str, made: Transplanted) -> Aggregator:
    teacher, pixels, _ = lesson(name)
    return fit_readouts(made.members, teacher.head, [(pixels, teacher.features(pixels))], made.priors)


class Finished(NamedTuple):
    """Members with their heads, and their aggregator."""

    members: list[Transformer]
    aggregator: Aggregator
    matches: list[Match]


def finished(name: str, policies: Sequence[MemberPolicy], basis: BasisKind, **options: int) -> Finished:
    made = run(name, policies, basis, **options)
    return Finished(made.members, aggregated(name, made), made.matches)


def weights_of(modules: Sequence[nn.Module]) -> list[tuple[str, bytes]]:
    return [(key, tensor.numpy().tobytes()) for module in modules for key, tensor in module.state_dict().items()]


@torch.no_grad()
def relative(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got - want).abs().max() / want.abs().max())


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("name", TEACHERS)
@torch.no_grad()
def test_at_full_size_a_member_is_its_teacher(name: str, basis: BasisKind) -> None:
    """On images that it has not been calibrated on."""
    teacher, _, _ = lesson(name)
    made = run(name, [full(teacher)], basis)
    aggregator = aggregated(name, made)
    fresh = random_inputs(teacher.spec, 50, seed=99)
    want = teacher(fresh)
    assert want.std(0).min() > 0.02
    assert relative(made.members[0](fresh), want) < 1e-3
    assert relative(aggregator({0: made.members[0].features(fresh)}), want) < 1e-3
    assert min(match.match for match in made.matches) > 1 - 1e-6


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("name", TEACHERS)
@torch.no_grad()
def test_a_few_images_will_do_at_full_size(name: str, basis: BasisKind) -> None:
    """Every prior is exact there, so that nothing hangs on what is fitted: three images, none of them held out."""
    teacher, pixels, _ = lesson(name)
    few = pixels[:3]
    statistics = statistics_of(teacher, few)
    made = transplant(teacher, statistics, [full(teacher)], few, basis=basis)
    fit_readouts(made.members, teacher.head, [(few, teacher.features(few))], made.priors)
    fresh = random_inputs(teacher.spec, 50, seed=99)
    assert relative(made.members[0](fresh), teacher(fresh)) < 1e-3
    assert {match.penalty for match in made.matches} == {1.0}


@settings(max_examples=8)
@given(
    basis=st.sampled_from(BASES),
    embed=st.integers(5, 14),
    heads=st.integers(1, 4),
    head_dim=st.integers(2, 6),
    neurons=st.integers(3, 20),
    gated=st.booleans(),
)
@torch.no_grad()
def test_rms_models_of_any_shape_are_exact_at_full_size(
    basis: BasisKind, embed: int, heads: int, head_dim: int, neurons: int, gated: bool
) -> None:
    """The basis of an RMSNorm model is a rotation that keeps the coordinate mean, too."""
    spec = tiny_t5(embed=embed, heads=heads, head_dim=head_dim, neurons=neurons, gated=gated)
    teacher = random_model(spec, seed=3)
    few = random_inputs(spec, 3, seed=4)
    statistics = statistics_from_batches(teacher, [(few, torch.arange(3))])
    made = transplant(teacher, statistics, [full(teacher)], few, basis=basis)
    fit_readouts(made.members, teacher.head, [(few, teacher.features(few))], made.priors)
    fresh = random_inputs(spec, 20, seed=5)
    assert relative(made.members[0](fresh), teacher(fresh)) < 1e-3


@pytest.mark.parametrize("basis", BASES)
@torch.no_grad()
def test_the_readout_prior_alone_is_exact_at_full_size(basis: BasisKind) -> None:
    for name in ("class token", "distilled", "rms", "norm of the mean"):
        teacher, pixels, _ = lesson(name)
        made = run(name, [full(teacher)], basis)
        prior = made.priors[0]
        assert prior.shape == (teacher.spec.features, made.members[0].spec.features)
        want = teacher.features(pixels)
        got = made.members[0].features(pixels) @ prior.float().T
        torch.testing.assert_close(got - got.mean(0), want - want.mean(0), atol=2e-3, rtol=0)


@pytest.mark.parametrize("basis", BASES)
def test_members_have_the_policys_shape(basis: BasisKind) -> None:
    made = run("class token", NARROW, basis)
    assert [member.spec.embed for member in made.members] == [6, 5]
    assert [member.spec.layers for member in made.members] == [(0, 1), (1,)]
    assert [[b.branch.units for b in member.residuals] for member in made.members] == [[1, 4, 2, 3], [1, 5]]
    for member in made.members:
        assert not member.training
        assert all((block.shortcut is not None) == (basis == "per-norm") for block in member.residuals)
        assert Transformer(member.spec).state_dict().keys() == member.state_dict().keys()


def test_every_linear_is_reported() -> None:
    made = run("class token", NARROW, "global")
    found = sorted((match.member, match.block, match.linear) for match in made.matches)
    blocks = [(0, "layers.0"), (0, "layers.1"), (1, "layers.1")]
    assert found == sorted(
        (member, f"{layer}.{kind}", linear)
        for member, layer in blocks
        for kind in ("attention", "mlp")
        for linear in ("reader", "writer")
    )
    assert all(match.match <= 1 for match in made.matches)


@torch.no_grad()
def test_a_wider_member_is_closer() -> None:
    teacher, _, _ = lesson("class token")
    fresh = random_inputs(teacher.spec, 100, seed=98)
    errors = []
    for embed in (4, 8, 12):
        made = run("class token", [full(teacher, embed)], "per-norm")
        aggregated("class token", made)
        errors.append(relative(made.members[0](fresh), teacher(fresh)))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 10 * errors[-1]


@pytest.mark.parametrize("basis", BASES)
@torch.no_grad()
def test_members_do_not_see_each_other(basis: BasisKind) -> None:
    """One walk for all gives each what a walk of its own would."""
    both = finished("class token", NARROW, basis)
    for n, policy in enumerate(NARROW):
        alone = finished("class token", [policy], basis)
        one, other = alone.members[0], both.members[n]
        # The heads are fitted on one Gram of all members' features, whose products may be rounded in another order.
        for ours, theirs in zip(one.head.parameters(), other.head.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs)
        other.head = one.head
        assert weights_of([one]) == weights_of([other])


@pytest.mark.parametrize("name", ["class token", "stem norm", "mean with prefix"])
@pytest.mark.parametrize("basis", BASES)
def test_the_same_twice_and_from_a_file(basis: BasisKind, name: str) -> None:
    """Bit for bit, whatever random numbers others have drawn meanwhile."""
    once = finished(name, NARROW, basis, batch=64)
    torch.manual_seed(1234)
    again = finished(name, NARROW, basis, batch=64)
    mapped = finished(name, NARROW, basis, batch=64, memory_bytes=1)
    assert weights_of(once.members) == weights_of(again.members) == weights_of(mapped.members)
    assert weights_of([once.aggregator]) == weights_of([again.aggregator]) == weights_of([mapped.aggregator])
    assert once.matches == again.matches == mapped.matches


@pytest.mark.parametrize("batch", [1, 64, 1000])
@pytest.mark.parametrize("basis", BASES)
@torch.no_grad()
def test_the_size_of_batches_does_not_matter(basis: BasisKind, batch: int) -> None:
    reference, made = (finished("class token", NARROW, basis, batch=size) for size in (50, batch))
    for one, other in zip(reference.matches, made.matches, strict=True):
        assert (one.penalty, one.match) == pytest.approx((other.penalty, other.match), rel=1e-4)
    pixels = random_inputs(lesson("class token")[0].spec, 50, seed=97)
    for one, other in zip(reference.members, made.members, strict=True):
        assert relative(other(pixels), one(pixels)) < 1e-3
    want, got = (
        each.aggregator({n: member.features(pixels) for n, member in enumerate(each.members)})
        for each in (reference, made)
    )
    assert relative(got, want) < 1e-3


def test_the_teacher_is_left_as_it_was() -> None:
    teacher, _, _ = lesson("class token")
    before = {key: tensor.clone() for key, tensor in teacher.state_dict().items()}
    for basis in BASES:
        aggregated("class token", run("class token", NARROW, basis))
    assert all(torch.equal(tensor, before[key]) for key, tensor in teacher.state_dict().items())


def test_progress_is_one_step_per_sub_block() -> None:
    teacher, pixels, statistics = lesson("class token")
    steps: list[None] = []
    transplant(teacher, statistics, NARROW, pixels, basis="global", advance=lambda: steps.append(None))
    assert len(steps) == len(teacher.residuals)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("kept", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)])
@torch.no_grad()
def test_any_layer_may_be_dropped(kept: tuple[int, ...], basis: BasisKind) -> None:
    """What a dropped layer would have written is in the targets; the member knows more than the labels' mean."""
    teacher = random_model(tiny_spec(layers=3), seed=13)
    pixels = random_inputs(teacher.spec, 400, seed=14)
    statistics = statistics_from_batches(teacher, [(pixels, torch.arange(400) % 5)])
    whole = full(teacher)
    policy = MemberPolicy("x", whole.embed, tuple(share for share in whole.layers if share.layer in kept))
    made = transplant(teacher, statistics, [policy], pixels, basis=basis)
    fit_readouts(made.members, teacher.head, [(pixels, teacher.features(pixels))], made.priors)
    fresh = random_inputs(teacher.spec, 100, seed=96)
    want, got = teacher(fresh), made.members[0](fresh)
    assert made.members[0].spec.layers == kept
    assert got.isfinite().all()
    assert (got - want).square().mean() < 0.9 * want.var(0).mean()


@pytest.mark.parametrize("basis", BASES)
@torch.no_grad()
def test_kept_streams_give_the_same_members(basis: BasisKind) -> None:
    """A search's shortcut: the teacher's walk computed once, products in float32."""
    teacher, pixels, statistics = lesson("class token")
    kept = lesson_with_walk(teacher, statistics, pixels, basis, batch=32)
    made = transplant_lesson(kept, NARROW, pixels)
    want = run("class token", NARROW, basis)
    fresh = random_inputs(teacher.spec, 20, seed=98)
    for ours, theirs, features in zip(made.members, want.members, made.features, strict=True):
        assert relative(ours.features(fresh), theirs.features(fresh)) < 0.02
        torch.testing.assert_close(features, ours.features(pixels), rtol=1e-4, atol=1e-4)
    assert kept.walk is not None
    torch.testing.assert_close(kept.walk.features, teacher.features(pixels), rtol=1e-4, atol=1e-4)
