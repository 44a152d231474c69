"""Bases of the stream: orthonormal, nested, and invisible to the norms."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from coformer_compiler.model.norm import Norm
from coformer_compiler.model.spec import NormKind, NormSpec
from coformer_compiler.transplant.basis import (
    bases_at,
    basis_of_width,
    eigenbasis,
    gain_of,
    plain_normed,
    zero_sum_basis,
)

EMBED = 10


def rows_of(kind: NormKind, seed: int = 0, count: int = 200) -> torch.Tensor:
    """Normed rows of unlike spread."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(count, EMBED, generator=random, dtype=torch.float64) * torch.arange(1, EMBED + 1)
    return plain_normed(Norm(NormSpec(EMBED, kind)), x)


def moment_of(kind: NormKind, seed: int = 0) -> torch.Tensor:
    rows = rows_of(kind, seed)
    return rows.T @ rows / len(rows)


@given(st.integers(2, 60))
def test_zero_sum_basis_is_orthonormal_and_sums_to_zero(width: int) -> None:
    basis = zero_sum_basis(width)
    assert basis.shape == (width, width - 1)
    torch.testing.assert_close(basis.T @ basis, torch.eye(width - 1, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(basis.sum(0), torch.zeros(width - 1, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_eigenbasis_diagonalises_the_moment_largest_first(kind: NormKind) -> None:
    moment = moment_of(kind)
    vectors = eigenbasis(moment, kind)
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(EMBED, dtype=torch.float64), atol=1e-10, rtol=0)
    inside = vectors.T @ moment @ vectors
    torch.testing.assert_close(inside, torch.diag(inside.diagonal()), atol=1e-10, rtol=0)
    assert (inside.diagonal().diff() <= 1e-12).all()
    if kind == "layer":
        torch.testing.assert_close(vectors[:, -1].abs(), torch.full((EMBED,), EMBED**-0.5, dtype=torch.float64))


def test_the_mean_direction_comes_last_even_where_the_rows_move_little() -> None:
    """Rank two: the null space is free to turn, but not towards the all-ones vector."""
    rows = rows_of("layer")[:2]
    vectors = eigenbasis(rows.T @ rows, "layer")
    torch.testing.assert_close(vectors[:, :-1].sum(0), torch.zeros(EMBED - 1, dtype=torch.float64), atol=1e-9, rtol=0)
    vectors = eigenbasis(torch.zeros(EMBED, EMBED, dtype=torch.float64), "layer")
    torch.testing.assert_close(vectors[:, :-1].sum(0), torch.zeros(EMBED - 1, dtype=torch.float64), atol=1e-9, rtol=0)


@pytest.mark.parametrize("width", [2, 5, EMBED])
@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_into_and_back(kind: NormKind, width: int) -> None:
    basis = basis_of_width(eigenbasis(moment_of(kind), kind), width, kind)
    assert (basis.into.shape, basis.back.shape) == ((width, EMBED), (EMBED, width))
    identity = torch.eye(width, dtype=torch.float64)
    seen = identity - 1 / width if kind == "layer" else identity
    torch.testing.assert_close(basis.into @ basis.back, seen, atol=1e-10, rtol=0)
    projector = basis.back @ basis.into
    torch.testing.assert_close(projector @ projector, projector, atol=1e-10, rtol=0)
    torch.testing.assert_close(projector, projector.T, atol=1e-10, rtol=0)
    assert projector.trace() == pytest.approx(width - 1 if kind == "layer" else width)


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_full_width_loses_nothing_of_the_normed_stream(kind: NormKind) -> None:
    basis = basis_of_width(eigenbasis(moment_of(kind), kind), EMBED, kind)
    rows = rows_of(kind, seed=1)
    torch.testing.assert_close(rows @ basis.into.T @ basis.back.T, rows, atol=1e-10, rtol=0)


@pytest.mark.parametrize("eps", [1e-6, 0.1])
@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_the_members_norm_sees_what_the_teachers_does(kind: NormKind, eps: float) -> None:
    """At full width norm and change of basis commute, the epsilon included."""
    norm = Norm(NormSpec(EMBED, kind, eps))
    basis = basis_of_width(eigenbasis(moment_of(kind), kind), EMBED, kind)
    x = 0.3 * torch.randn(50, EMBED, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) + 0.5
    torch.testing.assert_close(
        plain_normed(norm, x @ basis.into.T) @ basis.back.T, plain_normed(norm, x), atol=1e-10, rtol=0
    )


@pytest.mark.parametrize("width", [3, 7])
@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_a_stream_inside_the_basis_is_seen_whole_by_a_narrow_norm(kind: NormKind, width: int) -> None:
    """Variance per coordinate is kept, so that the epsilon weighs the same in a narrow member."""
    norm = Norm(NormSpec(EMBED, kind, 0.1))
    narrow = Norm(NormSpec(width, kind, 0.1))
    basis = basis_of_width(eigenbasis(moment_of(kind), kind), width, kind)
    inside = (torch.randn(50, width, dtype=torch.float64) @ basis.into) / 3
    got = plain_normed(narrow, inside @ basis.into.T) @ basis.back.T
    torch.testing.assert_close(got, plain_normed(norm, inside), atol=1e-10, rtol=0)


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_widths_are_nested_and_no_subspace_of_that_size_holds_more(kind: NormKind) -> None:
    vectors, rows = eigenbasis(moment_of(kind), kind), rows_of(kind)
    kept = []
    for width in range(2, EMBED + 1):
        basis = basis_of_width(vectors, width, kind)
        kept.append(float((rows @ basis.into.T @ basis.back.T).square().sum()))
    assert kept == sorted(kept)
    values = torch.linalg.eigvalsh(rows.T @ rows).flip(0)
    for width, energy in zip(range(2, EMBED + 1), kept, strict=True):
        count = width - 1 if kind == "layer" else width
        assert energy == pytest.approx(float(values[:count].sum()))


def test_one_basis_for_all_or_one_each() -> None:
    moments = [moment_of("layer"), 5 * moment_of("layer", seed=1)]
    each = bases_at(moments, ["layer"] * 2, [0, 0], "per-norm")
    assert all(torch.equal(a, eigenbasis(m, "layer")) for a, m in zip(each, moments, strict=True))
    first, second = bases_at(moments, ["layer"] * 2, [0, 0], "global")
    assert torch.equal(first, second)
    scaled = bases_at([moments[0], moments[1] / 5], ["layer"] * 2, [0, 0], "global")[0]
    torch.testing.assert_close(first @ first.T, scaled @ scaled.T, atol=1e-9, rtol=0)
    torch.testing.assert_close(first.abs(), scaled.abs(), atol=1e-7, rtol=0)


def test_plain_norm_and_gain() -> None:
    norm = Norm(NormSpec(4))
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2, 3, 4]))
        norm.bias.fill_(9)
    x = torch.randn(3, 4)
    torch.testing.assert_close(plain_normed(norm, x), F.layer_norm(x, (4,), eps=1e-6))
    assert torch.equal(plain_normed(None, x), x)
    assert gain_of(norm, 4).tolist() == [1, 2, 3, 4]
    assert gain_of(norm, 4).dtype == torch.float64
    assert gain_of(None, 3).tolist() == gain_of(Norm(NormSpec(3, affine=False)), 3).tolist() == [1, 1, 1]
