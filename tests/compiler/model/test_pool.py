"""What the head sees of the tokens."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from coformer_compiler.model.norm import Norm
from coformer_compiler.model.pool import Pool
from coformer_compiler.model.spec import NormSpec, PoolSpec


def random_pool(spec: PoolSpec) -> Pool:
    torch.manual_seed(3)
    pool = Pool(spec)
    with torch.no_grad():
        for parameter in pool.parameters():
            parameter.normal_()
    return pool


def normed(norm: Norm | None, x: torch.Tensor) -> torch.Tensor:
    return x if norm is None else F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.spec.eps)


@pytest.mark.parametrize("norm", [None, NormSpec(6)])
@torch.no_grad()
def test_prefix_lays_tokens_side_by_side(norm: NormSpec | None) -> None:
    pool = random_pool(PoolSpec("prefix", 2, norm, True))
    x = torch.randn(3, 5, 6)
    want = torch.cat([normed(pool.norm, x[:, 0]), normed(pool.norm, x[:, 1])], 1)
    torch.testing.assert_close(pool(x), want, atol=1e-6, rtol=0)


@pytest.mark.parametrize("count", [0, 1, 3])
@torch.no_grad()
def test_mean_of_normed_tokens(count: int) -> None:
    pool = random_pool(PoolSpec("mean", count, NormSpec(6), True))
    x = torch.randn(3, 5, 6)
    want = sum(normed(pool.norm, x[:, token]) for token in range(count, 5)) / (5 - count)
    torch.testing.assert_close(pool(x), want, atol=1e-6, rtol=0)


@pytest.mark.parametrize("count", [0, 1, 3])
@torch.no_grad()
def test_norm_of_the_mean(count: int) -> None:
    pool = random_pool(PoolSpec("mean", count, NormSpec(6), False))
    x = torch.randn(3, 5, 6)
    want = normed(pool.norm, sum(x[:, token] for token in range(count, 5)) / (5 - count))
    torch.testing.assert_close(pool(x), want, atol=1e-5, rtol=0)


@torch.no_grad()
def test_rows_are_linear_in_the_tokens() -> None:
    x, y = torch.randn(2, 3, 5, 6)
    for kind, norm_first in (("prefix", True), ("mean", True), ("mean", False)):
        pool = random_pool(PoolSpec(kind, 1, NormSpec(6), norm_first))
        torch.testing.assert_close(pool.rows(2 * x + y), 2 * pool.rows(x) + pool.rows(y), atol=1e-5, rtol=0)


def test_take_keeps_everything_but_the_width() -> None:
    pool = random_pool(PoolSpec("mean", 2, NormSpec(6, eps=1e-3), False))
    taken = pool.take([5, 1])
    assert taken.spec == PoolSpec("mean", 2, NormSpec(2, eps=1e-3), False)
    assert taken.norm is not None and pool.norm is not None
    assert torch.equal(taken.norm.weight, pool.norm.weight[[5, 1]])
    assert Pool(PoolSpec("mean", 2, None, False)).take([1]).norm is None


def test_feature_columns() -> None:
    assert random_pool(PoolSpec("prefix", 2, None, True)).feature_columns([4, 1], 6) == [4, 1, 10, 7]
    assert random_pool(PoolSpec("mean", 2, None, True)).feature_columns([4, 1], 6) == [4, 1]
