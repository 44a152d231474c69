"""Values by reduced-rank regression: exact where the rank suffices, otherwise the best there is for the data."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coformer_compiler.model.attention import Attention
from coformer_compiler.model.spec import AttentionSpec
from coformer_compiler.transplant.regression import Gram, SplitGram, ridge
from coformer_compiler.transplant.values import prior_of_heads, values_of_heads

HEADS, DIM, WIDTH, OUTPUTS = 3, 2, 5, 4


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gram_of(x: torch.Tensor, y: torch.Tensor) -> Gram:
    made = Gram(x.shape[1], y.shape[1])
    made.add(x, y)
    return made


@given(seed=st.integers(0, 10**6), beside=st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_of_sufficient_rank_nothing_is_lost(seed: int, beside: int) -> None:
    weight = prior_of_heads(draw(seed, OUTPUTS, HEADS * DIM), draw(seed + 1, HEADS * DIM, WIDTH), HEADS)
    x = draw(seed + 2, 40, beside + HEADS * WIDTH)
    values, writer = values_of_heads(weight, gram_of(x, x[:, :0]), HEADS, DIM)
    assert values.shape == (HEADS * DIM, WIDTH) and writer.shape == (OUTPUTS, HEADS * DIM)
    torch.testing.assert_close(prior_of_heads(writer, values, HEADS), weight)


def test_what_is_kept_is_best_where_the_streams_are() -> None:
    """In the metric of the data, not in that of the weights: no other matrix of the rank comes nearer."""
    x = draw(0, 200, WIDTH) * torch.tensor([5.0, 1.0, 0.2, 0.1, 3.0])
    weight = draw(1, OUTPUTS, WIDTH)
    values, writer = values_of_heads(weight, gram_of(x, x[:, :0]), 1, DIM)
    x = x - x.mean(0)

    def error(other: torch.Tensor) -> float:
        return float((x @ (weight - other).T).square().sum())

    left, sizes, right = torch.linalg.svd(weight, full_matrices=False)
    plain = (left[:, :DIM] * sizes[:DIM]) @ right[:DIM]
    written = torch.linalg.svdvals(x @ weight.T)
    assert error(writer @ values) == pytest.approx(float(written[DIM:].square().sum()), rel=1e-4)
    assert error(writer @ values) < error(plain)


def test_values_and_writer_share_the_size() -> None:
    x, weight = draw(2, 500, WIDTH), 1e4 * draw(3, OUTPUTS, WIDTH)
    values, writer = values_of_heads(weight, gram_of(x, x[:, :0]), 1, DIM)
    sizes = ((x - x.mean(0)) @ values.T).square().mean(0).sqrt()
    torch.testing.assert_close(sizes, writer.square().sum(0).sqrt(), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    "weight", [torch.zeros(OUTPUTS, HEADS * WIDTH, dtype=torch.float64), draw(4, 1, HEADS * WIDTH)]
)
def test_heads_with_little_to_write_have_zeros(weight: torch.Tensor) -> None:
    x = draw(5, 30, HEADS * WIDTH)
    values, writer = values_of_heads(weight, gram_of(x, x[:, :0]), HEADS, DIM)
    assert values.isfinite().all() and values.shape == (HEADS * DIM, WIDTH)
    torch.testing.assert_close(prior_of_heads(writer, values, HEADS), weight)


def test_combined_inputs_are_those_of_the_combined_rows() -> None:
    x, y, weight = draw(6, 40, 4), draw(7, 40, 2), draw(8, 3, 4)
    one, other = SplitGram(4, 2), SplitGram(3, 2)
    one.add(x, y, 0)
    other.add(x @ weight.T, y, 0)
    got, want = ridge(one.combined(weight)), ridge(other)
    torch.testing.assert_close((got.weight, got.bias), (want.weight, want.bias))
    assert (got.penalty, got.match) == pytest.approx((want.penalty, want.match))


@pytest.mark.parametrize("masked", [False, True])
def test_heads_see_the_stream_as_their_values_would_be_seen(masked: bool) -> None:
    """Mixing is linear in the values, so that values of the stream mix to values of the mixed stream."""
    torch.manual_seed(0)
    attention = Attention(AttentionSpec(WIDTH, HEADS, DIM, OUTPUTS)).double()
    x = draw(9, 2, 7, WIDTH)
    mask = torch.arange(7) < torch.tensor([[7], [4]]) if masked else None
    read = attention.reader(x)
    seen = attention.mix_stream(read, x, mask).unflatten(-1, (HEADS, WIDTH))
    weight = attention.reader.weight[2 * HEADS * DIM :].view(HEADS, DIM, WIDTH)
    mixed = torch.einsum("bthw,hdw->bthd", seen, weight).flatten(2) + attention.reader.bias[2 * HEADS * DIM :]
    torch.testing.assert_close(attention.mix(read, mask), mixed)
