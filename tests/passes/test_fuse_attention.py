"""Tests of coformer_passes.fuse_attention."""

from __future__ import annotations

import numpy as np
import pytest

from coformer_passes.fuse_attention import fuse_attention
from coformer_passes.numerics import check_structure, proto_without_weights

RANDOM = np.random.default_rng(0)
Q, K, V = (RANDOM.standard_normal((1, 5, 12)).astype(np.float32) for _ in range(3))
ARRAYS = {
    "heads": np.array([1, 5, 3, 4]),
    "whole": np.array([1, 5, 12]),
    "s": np.array([0.5], np.float32),
    "bias": RANDOM.standard_normal((1, 3, 5, 5)).astype(np.float32),
}
GRAPH = """g (float[1,5,12] q, float[1,5,12] k, float[1,5,12] v) => (float[1,5,12] y) {
    qh = Reshape(q, heads)
    kh = Reshape(k, heads)
    vh = Reshape(v, heads)
    qt = Transpose<perm = [0, 2, 1, 3]>(qh)
    kt = Transpose<perm = [0, 2, 3, 1]>(kh)
    vt = Transpose<perm = [0, 2, 1, 3]>(vh)
    qs = Mul(qt, s)
    scores = MatMul(qs, kt)
    p = Softmax<axis = -1>(scores)
    m = MatMul(p, vt)
    t = Transpose<perm = [0, 2, 1, 3]>(m)
    f = Reshape(t, whole)
    y = Relu(f)
}"""


def _parsed(parse, text: str):
    return parse(text, {name: array for name, array in ARRAYS.items() if name in text})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", ""),
        ("qs = Mul(qt, s)\n    scores = MatMul(qs, kt)", "scores = MatMul(qt, kt)"),
        ("Mul(qt, s)", "Mul(s, qt)"),
        ("axis = -1", "axis = 3"),
        ("f = Reshape(t, whole)\n    y = Relu(f)", "y = Reshape(t, whole)"),
    ],
    ids=["scaled", "unscaled", "scale first", "axis 3", "graph output"],
)
def test_attention_becomes_one_node(parse, outputs, op_types, cpu, golden_text, old, new) -> None:
    assert old in GRAPH
    text = GRAPH.replace(old, new) if old else GRAPH
    model = _parsed(parse, text)
    before = outputs(model, q=Q, k=K, v=V)
    assert fuse_attention(model, cpu)
    assert op_types(model) == ["MultiHeadAttention", *(["Relu"] if "Relu" in text else [])]
    assert [value.name for value in model.graph.outputs] == ["y"] and not model.graph.initializers
    check_structure(proto_without_weights(model)[0], "test")
    for found, expected in zip(outputs(model, q=Q, k=K, v=V), before, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert not fuse_attention(model, cpu)
    if not old:
        golden_text(model, "fuse_attention.after")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("p = Softmax<axis = -1>(scores)", "b = Add(scores, bias) p = Softmax<axis = -1>(b)"),
        ("axis = -1", "axis = 2"),
        ("kt = Transpose<perm = [0, 2, 3, 1]>(kh)", "kr = Relu(kh) kt = Transpose<perm = [0, 2, 3, 1]>(kr)"),
        ("y = Relu(f)", "y = Add(f, f) z = Neg(p)"),
        ("y = Relu(f)", "y = Add(f, f) z = Neg(m)"),
        ("y = Relu(f)", "y = Add(f, f) z = Neg(scores)"),
        ("f = Reshape(t, whole)", "r = Relu(t) f = Reshape(r, whole)"),
    ],
    ids=["a bias", "another axis", "normed keys", "weights are read", "the sum is read", "scores are read", "changed"],
)
def test_no_match(parse, op_types, cpu, old, new) -> None:
    assert old in GRAPH
    model = _parsed(parse, GRAPH.replace(old, new))
    before = op_types(model)
    assert not fuse_attention(model, cpu)
    assert op_types(model) == before


def test_what_others_read_stays(parse, outputs, op_types, cpu) -> None:
    text = GRAPH.replace("(float[1,5,12] y)", "(float[1,5,12] y, float[1,3,4,5] z)").replace(
        "y = Relu(f)", "y = Relu(f) z = Neg(kt)"
    )
    model = _parsed(parse, text)
    before = outputs(model, q=Q, k=K, v=V)
    assert fuse_attention(model, cpu)
    assert sorted(op_types(model)) == ["MultiHeadAttention", "Neg", "Relu", "Reshape", "Transpose"]
    for found, expected in zip(outputs(model, q=Q, k=K, v=V), before, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
