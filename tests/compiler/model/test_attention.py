"""Attention against softmax(QKᵀ/√d)V written out head by head in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from coformer_compiler.model.attention import Attention
from coformer_compiler.model.spec import AttentionSpec, NormSpec

HEADS, DIM, EMBED, OUT = 3, 4, 10, 7


def random_attention(
    query_norm: NormSpec | None = None, reader_bias: bool = True, score_bias: int | None = None
) -> Attention:
    torch.manual_seed(1)
    made = Attention(AttentionSpec(EMBED, HEADS, DIM, OUT, reader_bias, True, query_norm, score_bias))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    return made


def by_hand(attention: Attention, x: np.ndarray) -> np.ndarray:
    weights = {name: tensor.double().numpy() for name, tensor in attention.state_dict().items()}
    read = x @ weights["reader.weight"].T + weights.get("reader.bias", 0)
    spec = attention.spec.query_norm
    heads = []
    for head in range(HEADS):
        query, key, value = (
            read[:, part * HEADS * DIM + head * DIM : part * HEADS * DIM + (head + 1) * DIM] for part in range(3)
        )
        if spec is not None:
            query, key = (
                (
                    (each - each.mean(-1, keepdims=True)) / np.sqrt(each.var(-1, keepdims=True) + spec.eps)
                    if spec.kind == "layer"
                    else each / np.sqrt((each**2).mean(-1, keepdims=True) + spec.eps)
                )
                * weights[f"{name}.weight"]
                + weights.get(f"{name}.bias", 0)
                for name, each in (("query_norm", query), ("key_norm", key))
            )
        bias = weights["score_bias"][head] if "score_bias" in weights else 0
        scores = np.exp(query @ key.T / DIM**0.5 + bias)
        heads.append(scores / scores.sum(-1, keepdims=True) @ value)
    return np.concatenate(heads, -1) @ weights["writer.weight"].T + weights["writer.bias"]


@pytest.mark.parametrize("score_bias", [None, 5])
@pytest.mark.parametrize("reader_bias", [True, False])
@pytest.mark.parametrize("query_norm", [None, NormSpec(DIM), NormSpec(DIM, "rms", 1e-3)])
@torch.no_grad()
def test_forward_is_the_definition(query_norm: NormSpec | None, reader_bias: bool, score_bias: int | None) -> None:
    attention = random_attention(query_norm, reader_bias, score_bias)
    x = torch.randn(2, 5, EMBED)
    got = attention(x)
    assert got.shape == (2, 5, OUT)
    for image, result in zip(x.double().numpy(), got.numpy(), strict=True):
        np.testing.assert_allclose(result, by_hand(attention, image), atol=2e-5)


@torch.no_grad()
def test_take_by_hand() -> None:
    attention = random_attention(NormSpec(DIM))
    heads, channels_in, channels_out = [2, 0], [9, 1, 4, 4], [6, 2]
    taken = attention.take(heads, channels_in, channels_out)
    assert taken.spec == AttentionSpec(4, 2, DIM, 2, True, True, NormSpec(DIM))
    reader = attention.reader.weight.view(3, HEADS, DIM, EMBED)[:, heads][..., channels_in].reshape(-1, 4)
    assert torch.equal(taken.reader.weight, reader)
    assert torch.equal(taken.reader.bias, attention.reader.bias.view(3, HEADS, DIM)[:, heads].flatten())
    writer = attention.writer.weight.view(OUT, HEADS, DIM)[channels_out][:, heads].flatten(1)
    assert torch.equal(taken.writer.weight, writer)
    assert torch.equal(taken.writer.bias, attention.writer.bias[channels_out])
    for name in ("query_norm", "key_norm"):
        for key, tensor in getattr(attention, name).state_dict().items():
            assert torch.equal(getattr(taken, name).state_dict()[key], tensor)


@torch.no_grad()
def test_heads_add_up() -> None:
    """The output of all heads is the sum of what each writes alone, the bias counted once."""
    attention = random_attention(NormSpec(DIM))
    x = torch.randn(2, 5, EMBED)
    bias = attention.writer.bias
    each = [attention.take([head], range(EMBED), range(OUT))(x) - bias for head in range(HEADS)]
    torch.testing.assert_close(sum(each) + bias, attention(x), atol=1e-5, rtol=0)


def test_take_without_reader_bias_has_none() -> None:
    taken = random_attention(reader_bias=False).take([1], range(EMBED), range(OUT))
    assert taken.reader.bias is None
    assert not taken.spec.reader_bias


def test_rows_and_columns_of_heads() -> None:
    attention = random_attention()
    assert attention.writer_columns([2, 0]) == [8, 9, 10, 11, 0, 1, 2, 3]
    assert attention.reader_rows([1]) == ([4, 5, 6, 7, 16, 17, 18, 19, 28, 29, 30, 31],)
