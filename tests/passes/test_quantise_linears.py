"""Tests of coformer_passes.quantise_linears."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coformer_passes.quantise_linears import ZERO, quantise_linears, quantised
from coformer_passes.runner import PassRecord, legalise
from coformer_targets import Target, load_target, with_precision

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((1, 5, 32)).astype(np.float32)
ARRAYS = {
    "w": RANDOM.standard_normal((32, 48)).astype(np.float32),
    "u": RANDOM.standard_normal((32, 40)).astype(np.float32),
    "b": RANDOM.standard_normal(48).astype(np.float32),
}
GRAPH = (
    """g (float[1,5,32] x) => (float[1,5,48] y, float[1,5,40] z) { p = MatMul(x, w) y = Add(p, b) z = MatMul(x, u) }"""
)


@pytest.fixture(scope="module")
def integers() -> Target:
    return with_precision(load_target("cpu"), "int8")


def test_layers_become_integer_products_and_share_their_input(parse, outputs, op_types, integers) -> None:
    model = parse(GRAPH, ARRAYS)
    before = outputs(model, x=X)
    assert quantise_linears(model, integers)
    assert op_types(model).count("DynamicQuantizeLinear") == 1 and op_types(model).count("MatMulInteger") == 2
    assert [value.name for value in model.graph.outputs] == ["y", "z"]
    assert not {"w", "u"} & set(model.graph.initializers)
    for found, expected in zip(outputs(model, x=X), before, strict=True):
        assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()
    assert not quantise_linears(model, integers)


def test_small_layers_and_products_of_two_values_stay(parse, integers) -> None:
    small = "g (float[1,5,4] x) => (float[1,5,4] y) { y = MatMul(x, w) }"
    assert not quantise_linears(parse(small, {"w": np.eye(4, dtype=np.float32)}), integers)
    assert not quantise_linears(parse("g (float[64,64] x) => (float[64,64] y) { y = MatMul(x, x) }"), integers)


@pytest.mark.parametrize("name", ["cpu", "jetson-nano"])
def test_other_precisions_stay(parse, name) -> None:
    assert not quantise_linears(parse(GRAPH, ARRAYS), load_target(name))


@given(st.integers(1, 6), st.integers(1, 6), st.floats(1e-6, 1e6), st.booleans())
def test_a_weight_is_at_most_half_a_step_away(rows: int, columns: int, size: float, silent: bool) -> None:
    weight = (size * RANDOM.standard_normal((rows, columns))).astype(np.float32)
    if silent:
        weight[:, 0] = 0.0
    integer, scale = quantised(weight)
    assert integer.dtype == np.uint8 and integer.min() >= 1
    assert (np.abs((integer - float(ZERO)) * scale - weight) <= 0.5001 * scale).all()


def test_the_largest_numbers_do_not_saturate(parse, outputs, integers) -> None:
    """On x86 without VNNI, sums of pairs saturate where one side is signed: 2 · 255 · 127 does not fit into 16 bits."""
    model = parse("g (float[1,64] x) => (float[1,16] y) { y = MatMul(x, w) }", {"w": np.ones((64, 16), np.float32)})
    assert quantise_linears(model, integers)
    np.testing.assert_allclose(outputs(model, x=np.ones((1, 64), np.float32))[0], 64.0, rtol=1e-5)


def test_a_transformer_in_integers(transformer, integers) -> None:
    model = transformer(layers=3, embed=48, mlp=96)
    golden = {"pixels": RANDOM.integers(0, 256, (4, 3, 16, 16), dtype=np.uint8)}
    records: list[PassRecord] = []
    legal = legalise(model, integers, golden, record=records.append)
    (record,) = (each for each in records if each.name == "quantise_linears")
    assert record.modified and record.difference is not None and record.difference < 0.05
    assert [node.op_type for node in legal.graph].count("MatMulInteger") == 18
