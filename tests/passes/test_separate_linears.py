"""Tests of coformer_passes.separate_linears."""

from __future__ import annotations

import numpy as np
import pytest

from coformer_passes.separate_linears import separate_linears

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((1, 5, 8)).astype(np.float32)
ARRAYS = {
    "w": RANDOM.standard_normal((8, 12)).astype(np.float32),
    "b": RANDOM.standard_normal(12).astype(np.float32),
    "sizes": np.array([2, 4, 6]),
}
GRAPH = """g (float[1,5,8] x) => (float[1,5,2] q, float[1,5,4] k, float[1,5,6] z) {
    p = MatMul(x, w)
    s = Add(p, b)
    q, k, v = Split<axis = -1>(s, sizes)
    z = Relu(v)
}"""


def test_every_part_becomes_a_layer(parse, outputs, op_types, cpu, golden_text) -> None:
    model = parse(GRAPH, ARRAYS)
    before = outputs(model, x=X)
    assert separate_linears(model, cpu)
    assert op_types(model) == ["MatMul", "Add", "MatMul", "Add", "MatMul", "Add", "Relu"]
    assert [value.name for value in model.graph.outputs] == ["q", "k", "z"]
    assert not {"w", "b", "sizes"} & set(model.graph.initializers)
    for found, expected in zip(outputs(model, x=X), before, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert not separate_linears(model, cpu)
    golden_text(model, "separate_linears.after")


def test_a_layer_without_bias(parse, outputs, op_types, cpu) -> None:
    text = GRAPH.replace("s = Add(p, b)\n", "").replace("(s, sizes)", "(p, sizes)").replace("axis = -1", "axis = 2")
    model = parse(text, {name: array for name, array in ARRAYS.items() if name != "b"})
    before = outputs(model, x=X)
    assert separate_linears(model, cpu)
    assert op_types(model) == ["MatMul", "MatMul", "MatMul", "Relu"]
    for found, expected in zip(outputs(model, x=X), before, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("s = Add(p, b)", "t = Add(p, b) s = Tanh(t)"),
        ("float[1,5,6] z)", "float[1,5,6] z, float[1,5,12] s)"),
        ("float[1,5,6] z)", "float[1,5,6] z, float[1,5,12] p)"),
        ("z = Relu(v)", "z = Relu(v) unused = Neg(s)"),
    ],
)
def test_no_match(parse, op_types, cpu, old, new) -> None:
    assert old in GRAPH
    model = parse(GRAPH.replace(old, new), ARRAYS)
    before = op_types(model)
    assert not separate_linears(model, cpu)
    assert op_types(model) == before


def test_a_split_of_tokens_is_left(parse, cpu) -> None:
    text = (
        "g (float[1,5,8] x) => (float[1,2,12] a, float[1,3,12] b) { p = MatMul(x, w) a, b = Split<axis = 1>(p, sizes) }"
    )
    assert not separate_linears(parse(text, {"w": ARRAYS["w"], "sizes": np.array([2, 3])}), cpu)


def test_one_layer_split_twice_is_left(parse, cpu) -> None:
    text = GRAPH.replace("z = Relu(v)", "z = Relu(v) c, d, e = Split<axis = -1>(s, sizes)")
    assert not separate_linears(parse(text, ARRAYS), cpu)
