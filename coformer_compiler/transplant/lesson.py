"""What every transplant of one teacher has in common: its bases and, where many members are made, its streams.

A search transplants hundreds of candidates from one teacher on the same samples. Eigenbases, the teacher's stream
before every sub-block and the Gram matrices of what its readers read are then computed once and kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from coformer_compiler.model.residual import Residual
from coformer_compiler.model.spec import NormKind
from coformer_compiler.model.transformer import Transformer
from coformer_compiler.transplant.basis import Basis, BasisKind, bases_at, basis_of_width, eigenbasis, kind_of
from coformer_compiler.transplant.regression import PENALTIES, SplitGram
from coformer_compiler.transplant.statistics import Statistics


@dataclass(frozen=True)
class Walk:
    """A teacher's streams over a calibration set.

    Attributes:
        streams: before each sub-block, then behind the last, each `(samples, tokens, embed)` float32.
        readings: per sub-block, the Gram of what its reader reads, for ΣY² of any rows of the reader.
        features: pooled, `(samples, features)`.
    """

    streams: tuple[torch.Tensor, ...]
    readings: tuple[SplitGram, ...]
    features: torch.Tensor


@dataclass(frozen=True)
class Lesson:
    """A teacher with its bases.

    Attributes:
        teacher: the model, in evaluation mode.
        statistics: its statistics.
        basis: one basis for the stream, or one per norm.
        kinds: of the norm at each point.
        vectors: eigenbasis at each point.
        stem_vectors: of the stem's own norm, if it has one.
        penalties: that ridge regressions try.
        products: what the products of one batch are computed in; float32 halves a search's time, builds use float64.
        walk: the teacher's streams, where they are kept.
    """

    teacher: Transformer
    statistics: Statistics
    basis: BasisKind
    kinds: tuple[NormKind, ...]
    vectors: tuple[torch.Tensor, ...]
    stem_vectors: torch.Tensor | None
    penalties: tuple[float, ...] = PENALTIES
    products: torch.dtype = torch.float64
    walk: Walk | None = None

    def bases(self, width: int) -> list[Basis]:
        """The bases of a member of the given width, one per point."""
        return [basis_of_width(each, width, kind) for each, kind in zip(self.vectors, self.kinds, strict=True)]


def lesson_of(
    teacher: Transformer, statistics: Statistics, basis: BasisKind, penalties: tuple[float, ...] = PENALTIES
) -> Lesson:
    """The bases alone."""
    device = teacher.device
    kinds = tuple(kind_of(norm) for norm in (*(block.norm for block in teacher.residuals), teacher.pool.norm))
    vectors = bases_at([moment.to(device) for moment in statistics.moments], kinds, basis)
    stem = None
    if teacher.stem.norm is not None and statistics.stem_moment is not None:
        stem = eigenbasis(statistics.stem_moment.to(device), teacher.stem.norm.spec.kind)
    return Lesson(teacher, statistics, basis, kinds, tuple(vectors), stem, penalties)


@torch.no_grad()
def lesson_with_walk(
    teacher: Transformer,
    statistics: Statistics,
    inputs: torch.Tensor,
    basis: BasisKind,
    batch: int = 128,
    penalties: tuple[float, ...] = PENALTIES,
) -> Lesson:
    """Bases and streams; memory goes with samples × tokens × embed × sub-blocks.

    Args:
        teacher: the model.
        statistics: its statistics.
        inputs: calibration samples `(samples, *stem input)`.
        basis: see `Lesson`.
        batch: samples at a time.
        penalties: see `Lesson`.
    """
    made = lesson_of(teacher, statistics, basis, penalties)
    parts: list[list[torch.Tensor]] = [[] for _ in range(len(teacher.residuals) + 1)]
    readings = [reading_gram(block, torch.float32) for block in teacher.residuals]
    features = []
    for first in range(0, len(inputs), batch):
        pixels = inputs[first : first + batch].to(teacher.device)
        mask, x = teacher.stem.mask(pixels), teacher.stem(pixels)
        for j, block in enumerate(teacher.residuals):
            parts[j].append(x)
            normed = block.normed(x)
            readings[j].add(normed, normed[..., :0], first, mask)
            x = block(x, mask)
        parts[-1].append(x)
        features.append(teacher.pool(x, mask))
    walk = Walk(tuple(torch.cat(each) for each in parts), tuple(readings), torch.cat(features))
    return replace(made, products=torch.float32, walk=walk)


def reading_gram(block: Residual, products: torch.dtype) -> SplitGram:
    """An empty Gram of what the block's reader reads."""
    return SplitGram(block.branch.reader.in_features, 0, block.branch.reader.weight.device, products)
