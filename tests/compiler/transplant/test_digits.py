"""The teacher of the digits example: trained weights and real images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F

from coformer_compiler.data import DataSet, Split, load_data
from coformer_compiler.decomposer.dealing import members_from_shapes
from coformer_compiler.decomposer.policy import MemberPolicy, teacher_shape
from coformer_compiler.decomposer.shapes import MemberShape, full_shape
from coformer_compiler.frontends import ModelSource, import_model
from coformer_compiler.model.aggregator import Aggregator
from coformer_compiler.model.transformer import Selection, Transformer
from coformer_compiler.transplant.basis import BasisKind
from coformer_compiler.transplant.readout import fit_readouts
from coformer_compiler.transplant.statistics import Statistics, statistics_from_batches
from coformer_compiler.transplant.transplant import transplant

CHECKPOINT = Path(__file__).parents[3] / "examples" / "digits" / "teacher.safetensors"
OPTIONS = (
    ("img_size", 8),
    ("patch_size", 2),
    ("embed_dim", 96),
    ("depth", 6),
    ("num_heads", 6),
    ("in_chans", 1),
    ("num_classes", 10),
)
BASES: tuple[BasisKind, ...] = ("global", "per-norm")
THIRD = MemberShape(32, dict.fromkeys(range(6), 2), dict.fromkeys(range(6), 128))
SAMPLES = 512


class Digits(NamedTuple):
    """The teacher, what it is calibrated on, and what it has not seen."""

    teacher: Transformer
    statistics: Statistics
    pixels: torch.Tensor
    features: torch.Tensor
    test: Split


class System(NamedTuple):
    """Members with heads, and their aggregator."""

    members: list[Transformer]
    aggregator: Aggregator

    def logits(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.aggregator({n: member.features(pixels) for n, member in enumerate(self.members)})


@pytest.fixture(scope="module")
def digits() -> Digits:
    source = ModelSource("timm:vit_tiny_patch16_224", "file", CHECKPOINT, OPTIONS)
    teacher = import_model(source)
    data: DataSet = load_data("digits", image_size=8, channels=1, calibration=SAMPLES)
    pixels, labels = (torch.from_numpy(array) for array in (data.calibration.inputs, data.calibration.labels))
    statistics = statistics_from_batches(teacher, zip(pixels.split(128), labels.split(128), strict=True))
    with torch.no_grad():
        return Digits(teacher, statistics, pixels, teacher.features(pixels), data.test)


def policies(digits: Digits, shapes: Sequence[MemberShape], *, channels: bool = False) -> tuple[MemberPolicy, ...]:
    blocks = digits.teacher.residuals
    scores = {(b.kind, b.layer): s for b, s in zip(blocks, digits.statistics.scores, strict=True)}
    names = [f"d{n}" for n in range(len(shapes))]
    return members_from_shapes(names, shapes, scores, digits.statistics.channel_scores if channels else None)


@torch.no_grad()
def transplanted(digits: Digits, members: Sequence[MemberPolicy], basis: BasisKind) -> System:
    made = transplant(digits.teacher, digits.statistics, members, digits.pixels, basis=basis)
    batches = [(digits.pixels, digits.features)]
    return System(made.members, fit_readouts(made.members, digits.teacher.head, batches, made.priors))


def sliced(digits: Digits, members: Sequence[MemberPolicy]) -> list[Transformer]:
    """Index selection, the teacher's own head cut with it."""
    made = []
    for member in members:
        assert member.channels is not None
        heads, neurons = (
            {share.layer: getattr(share, kind) for share in member.layers} for kind in ("heads", "neurons")
        )
        made.append(digits.teacher.take(Selection(member.channels, heads, neurons)))
    return made


@torch.no_grad()
def accuracy(digits: Digits, logits: torch.Tensor) -> float:
    return float((logits.argmax(1) == torch.from_numpy(digits.test.labels)).double().mean())


@pytest.mark.parametrize("basis", BASES)
@torch.no_grad()
def test_at_full_size_a_member_is_its_teacher(digits: Digits, basis: BasisKind) -> None:
    """On the test split, which neither has seen; few calibration samples will do, since the prior is exact."""
    whole = full_shape(teacher_shape(digits.teacher.spec))
    few = digits._replace(pixels=digits.pixels[:128], features=digits.features[:128])
    system = transplanted(few, policies(few, [whole]), basis)
    pixels = torch.from_numpy(digits.test.inputs)
    want = digits.teacher(pixels)
    assert want.abs().max() > 3
    for got in (system.members[0](pixels), system.logits(pixels)):
        assert float((got - want).abs().max() / want.abs().max()) < 1e-3


@pytest.mark.parametrize("basis", BASES)
@torch.no_grad()
def test_disjoint_thirds(digits: Digits, basis: BasisKind) -> None:
    """Untrained: all together within five points of the teacher and ahead of each, each far above index selection."""
    pixels = torch.from_numpy(digits.test.inputs)
    dealt = policies(digits, [THIRD] * 3, channels=True)
    system = transplanted(digits, dealt, basis)
    teacher = accuracy(digits, digits.teacher(pixels))
    assert teacher > 0.97
    together = accuracy(digits, system.logits(pixels))
    assert together >= teacher - 0.05
    for member, cut in zip(system.members, sliced(digits, dealt), strict=True):
        assert member.cost().flops < digits.teacher.cost().flops / 6
        alone = accuracy(digits, member(pixels))
        assert together > alone > max(0.5, accuracy(digits, cut(pixels)) + 0.2)


@pytest.mark.parametrize("kept", [(0, 1, 2, 3), (1, 2, 3, 4, 5), (2, 4)])
@pytest.mark.parametrize("basis", BASES)
@torch.no_grad()
def test_dropped_layers_are_corrected_for(digits: Digits, basis: BasisKind, kept: tuple[int, ...]) -> None:
    """Half the heads and neurons of some layers: what the rest would have written is in the targets of those kept."""
    pixels = torch.from_numpy(digits.test.inputs)
    shape = MemberShape(96, dict.fromkeys(kept, 3), dict.fromkeys(kept, 192))
    dealt = policies(digits, [shape], channels=True)
    (member,) = transplanted(digits, dealt, basis).members
    (cut,) = sliced(digits, dealt)
    logits = member(pixels)
    assert member.spec.layers == cut.spec.layers == kept
    assert logits.isfinite().all()
    assert accuracy(digits, logits) > max(0.8, accuracy(digits, cut(pixels)) + 0.04)


@pytest.mark.slow
@torch.no_grad()
def test_it_matters_which_neurons_are_kept(digits: Digits) -> None:
    """The worst sixteen of every layer in place of the best: the same shape loses more."""
    pixels, labels = torch.from_numpy(digits.test.inputs), torch.from_numpy(digits.test.labels)
    shape = MemberShape(96, dict.fromkeys(range(6), 6), dict.fromkeys(range(6), 16))
    worst = replace(digits.statistics, scores=tuple(-scores for scores in digits.statistics.scores))
    losses = []
    for given in (digits, digits._replace(statistics=worst)):
        (member,) = transplanted(given, policies(given, [shape]), "per-norm").members
        losses.append(float(F.cross_entropy(member(pixels), labels)))
    assert losses[0] < 0.85 * losses[1]
