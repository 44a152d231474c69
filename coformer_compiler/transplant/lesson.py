"""What every transplant of one teacher has in common: its bases and, where many members are made, its streams.

A search transplants hundreds of candidates from one teacher on the same samples. Eigenbases, the teacher's stream
before every sub-block and the Gram matrices of what its readers read are then computed once and kept.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch

from coformer_compiler.decomposer.shapes import stage_widths
from coformer_compiler.model.bridge import Bridge
from coformer_compiler.model.flow import Block, flow_from, onward
from coformer_compiler.model.merge import Merge
from coformer_compiler.model.spec import MergeSpec, NormKind
from coformer_compiler.model.transformer import Transformer
from coformer_compiler.transplant.basis import Basis, BasisKind, bases_at, basis_of_width, eigenbasis, kind_of
from coformer_compiler.transplant.regression import PENALTIES, SplitGram
from coformer_compiler.transplant.statistics import Statistics

KEPT = 4
"""Bases that a member holds at a time."""


@dataclass(frozen=True)
class Walk:
    """A teacher's streams over a calibration set.

    Attributes:
        streams: before each block, then behind the last, each `(samples, tokens, embed)` float32.
        readings: per block, the Gram of what its reader reads, for ΣY² of any rows of the reader; of a bridge that of
            the memory; empty for a merge.
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
        sketch: directions that they choose by, see `regression.ridge`; a search's, builds look at everything.
        products: what the products of one batch are computed in; float32 halves a search's time, builds use float64.
        walk: the teacher's streams, where they are kept.
        refit_values: whether heads gather what is missing (`values.py`), or, for comparison, what the teacher's do.
    """

    teacher: Transformer
    statistics: Statistics
    basis: BasisKind
    kinds: tuple[NormKind, ...]
    vectors: tuple[torch.Tensor, ...]
    stem_vectors: torch.Tensor | None
    penalties: tuple[float, ...] = PENALTIES
    sketch: int | None = None
    products: torch.dtype = torch.float64
    walk: Walk | None = None
    refit_values: bool = True

    def bases(self, embed: int) -> Bases:
        """The bases of a member of the given width."""
        return Bases(self, embed)


class Bases:
    """The bases of a member, one per point; all of them would outweigh it, so they are made in turn, and few kept."""

    def __init__(self, lesson: Lesson, embed: int) -> None:
        """For members of that width."""
        spec = lesson.teacher.spec
        widths = stage_widths(spec.embeds, embed)
        # A merge at the end of a stage reads the coordinate mean.
        merged = {stage for stage, block in zip(spec.stages, spec.blocks, strict=False) if isinstance(block, MergeSpec)}
        self._keys = [
            (widths[stage], kind, stage in merged) for kind, stage in zip(lesson.kinds, spec.stages, strict=True)
        ]
        self._vectors = lesson.vectors
        self._basis = functools.lru_cache(KEPT)(
            lambda vectors, width, kind, mean: basis_of_width(vectors, width, kind, keep_mean=mean)
        )

    def __getitem__(self, point: int) -> Basis:
        """The basis at a point, −1 for the last."""
        return self._basis(self._vectors[point], *self._keys[point])


def lesson_of(teacher: Transformer, statistics: Statistics, basis: BasisKind) -> Lesson:
    """The bases alone."""
    device = teacher.device
    kinds = tuple(kind_of(norm) for norm in (*(block.norm for block in teacher.steps), teacher.pool.norm))
    vectors = bases_at([moment.to(device) for moment in statistics.moments], kinds, teacher.spec.stages, basis)
    stem = None
    if teacher.stem.norm is not None and statistics.stem_moment is not None:
        stem = eigenbasis(statistics.stem_moment.to(device), teacher.stem.norm.spec.kind)
    return Lesson(teacher, statistics, basis, kinds, tuple(vectors), stem)


@torch.no_grad()
def lesson_with_walk(
    teacher: Transformer,
    statistics: Statistics,
    inputs: torch.Tensor,
    basis: BasisKind,
    batch: int = 128,
) -> Lesson:
    """Bases and streams; memory goes with samples × tokens × embed × sub-blocks.

    Args:
        teacher: the model.
        statistics: its statistics.
        inputs: calibration samples `(samples, *stem input)`.
        basis: see `Lesson`.
        batch: samples at a time.
    """
    made = lesson_of(teacher, statistics, basis)
    parts: list[list[torch.Tensor]] = [[] for _ in range(len(teacher.steps) + 1)]
    readings = [reading_gram(block, torch.float32) for block in teacher.steps]
    features = []
    for first in range(0, len(inputs), batch):
        pixels = inputs[first : first + batch].to(teacher.device)
        flow = flow_from(teacher.stem, pixels)
        for j, block in enumerate(teacher.steps):
            parts[j].append(flow.x)
            if not isinstance(block, Merge):
                normed = block.norm(flow.x) if isinstance(block, Bridge) else block.normed(flow.x)
                readings[j].add(normed, normed[..., :0], first, flow.mask)
            flow = onward(block, flow, pixels)
        parts[-1].append(flow.x)
        features.append(teacher.pool(flow.x, flow.mask))
    walk = Walk(tuple(torch.cat(each) for each in parts), tuple(readings), torch.cat(features))
    return replace(made, products=torch.float32, walk=walk)


def reading_gram(block: Block, products: torch.dtype) -> SplitGram:
    """An empty Gram of what the block's reader reads; of nothing for a merge, whose fit needs none."""
    if isinstance(block, Merge):
        return SplitGram(0, 0, block.reader.weight.device, products)
    if isinstance(block, Bridge):
        return SplitGram(block.norm.spec.width, 0, block.stem.words.device, products)
    return SplitGram(block.branch.reader.in_features, 0, block.branch.reader.weight.device, products)
