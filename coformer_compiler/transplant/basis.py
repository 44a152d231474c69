"""Bases of the residual stream: how a narrow member sees the teacher's wide stream.

A member of width w holds, at a norm, the stream's part along the leading eigenvectors of the normed stream's second
moment there. For LayerNorm the stream's coordinate mean carries nothing, so w − 1 eigenvectors are kept and written
in an orthonormal basis of the w-vectors whose coordinates sum to zero: the member's own LayerNorm then removes
nothing, and at full width the member is the teacher exactly. For RMSNorm a plain rotation already is. A merge's norm
runs over four tokens, so that it reads how their coordinate means differ; in a stage that ends in one, the coordinate
mean of the teacher's stream is the coordinate mean of the member's.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from coformer_compiler.model.norm import Norm
from coformer_compiler.model.spec import NormKind

BasisKind = Literal["global", "per-norm"]


@dataclass(frozen=True)
class Basis:
    """A view of the stream at one point.

    Attributes:
        into: float64 `(w, d)`, the teacher's stream to the member's.
        back: float64 `(d, w)`, the member's normed stream to the teacher's normed stream (before gain and bias).
    """

    into: torch.Tensor
    back: torch.Tensor


def eigenbasis(moment: torch.Tensor, kind: NormKind) -> torch.Tensor:
    """Eigenvectors `(d, d)` of a second moment `(d, d)` of the normed stream, the largest first.

    For LayerNorm the all-ones vector, along which the normed stream never moves, is forced to be the last.
    """
    moment = (moment + moment.T) / 2
    if kind == "layer":
        width = len(moment)
        ones = torch.full((width, 1), width**-0.5, dtype=moment.dtype, device=moment.device)
        centred = moment - ones @ (ones.T @ moment)
        moment = centred - (centred @ ones) @ ones.T
        moment = moment - (moment.diagonal().sum() + 1) * (ones @ ones.T)
    vectors: torch.Tensor = torch.linalg.eigh(moment).eigenvectors
    return vectors.flip(1)


def kind_of(norm: Norm | None) -> NormKind:
    """What a basis at a norm has to respect; where there is no norm, as little as for RMSNorm."""
    return "rms" if norm is None else norm.spec.kind


def basis_of_width(vectors: torch.Tensor, width: int, kind: NormKind, *, keep_mean: bool = False) -> Basis:
    """The leading part of an eigenbasis as seen by a member of the given width; every width comes from the same basis.

    `keep_mean` carries the coordinate mean over for a LayerNorm model, where something else reads it.

    The factor √(w/d) keeps the variance per coordinate, so that the norm's epsilon weighs the same in both models.
    """
    embed = len(vectors)
    scale = (width / embed) ** 0.5
    if kind == "rms":
        kept = vectors[:, :width]
        return Basis(scale * kept.T, kept / scale)
    kept = vectors[:, : width - 1]
    zero_sum = zero_sum_basis(width).to(kept)
    into, back = zero_sum @ kept.T, kept @ zero_sum.T
    if keep_mean:
        mean = torch.full_like(into, (width * embed) ** -0.5)
        into, back = into + mean, back + mean.T
    return Basis(scale * into, back / scale)


@functools.cache
def zero_sum_basis(width: int) -> torch.Tensor:
    """Orthonormal columns `(width, width − 1)` that each sum to zero (Helmert), float64."""
    made = torch.zeros(width, width - 1, dtype=torch.float64)
    for column in range(width - 1):
        made[: column + 1, column] = 1
        made[column + 1, column] = -(column + 1)
        made[:, column] /= ((column + 1) * (column + 2)) ** 0.5
    return made


def bases_at(
    points: Sequence[torch.Tensor], kinds: Sequence[NormKind], stages: Sequence[int], basis: BasisKind
) -> list[torch.Tensor]:
    """Eigenbases for a list of second moments at norms of these kinds: one each, or the same one for all of a stage."""
    if basis == "per-norm":
        return [eigenbasis(moment, kind) for moment, kind in zip(points, kinds, strict=True)]
    found = {}
    for stage in set(stages):
        own = [moment for moment, number in zip(points, stages, strict=True) if number == stage]
        mean = sum((moment / moment.diagonal().sum() for moment in own), torch.zeros_like(own[0])) / len(own)
        found[stage] = eigenbasis(mean, "layer" if "layer" in kinds else "rms")
    return [found[stage] for stage in stages]


def plain_normed(norm: Norm | None, x: torch.Tensor) -> torch.Tensor:
    """`x` normed without gain and bias; `x` itself where there is no norm."""
    if norm is None:
        return x
    if norm.spec.kind == "rms":
        return torch.nn.functional.rms_norm(x, (norm.spec.width,), None, norm.spec.eps)
    return torch.nn.functional.layer_norm(x, (norm.spec.width,), None, None, norm.spec.eps)


def gain_of(norm: Norm | None, width: int) -> torch.Tensor:
    """The norm's gain in float64, ones where it has none."""
    if norm is None or norm.weight is None:
        return torch.ones(width, dtype=torch.float64)
    return norm.weight.detach().double()


def shift_of(norm: Norm | None, width: int) -> torch.Tensor:
    """The norm's bias in float64, zeros where it has none."""
    if norm is None or norm.bias is None:
        return torch.zeros(width, dtype=torch.float64)
    return norm.bias.detach().double()
