"""Tests of coformer_passes.fold_attention_scale."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coformer_passes.fold_attention_scale import fold_attention_scale
from coformer_passes.infer_shapes import infer_shapes

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((1, 5, 8)).astype(np.float32)
ARRAYS = {
    "wq": RANDOM.standard_normal((8, 6)).astype(np.float32),
    "bq": RANDOM.standard_normal(6).astype(np.float32),
    "wk": RANDOM.standard_normal((8, 6)).astype(np.float32),
    "shape": np.array([1, 5, 2, 3]),
    "scale": np.array(0.577, np.float32),
}
SEPARATE = """g (float[1,5,8] x) => (float[1,2,5,5] scores) {
    qp = MatMul(x, wq)
    q = Add(qp, bq)
    qr = Reshape(q, shape)
    qh = Transpose<perm = [0,2,1,3]>(qr)
    k = MatMul(x, wk)
    kr = Reshape(k, shape)
    kh = Transpose<perm = [0,2,3,1]>(kr)
    qs = Mul(qh, scale)
    scores = MatMul(qs, kh)
}"""
FUSED = {
    "w": RANDOM.standard_normal((8, 18)).astype(np.float32),
    "b": RANDOM.standard_normal(18).astype(np.float32),
    "scale": np.array(0.577, np.float32),
}


def _folded(parse, outputs, cpu, text, arrays) -> set[str]:
    """The initializers behind the pass, which must have changed the graph and not what it computes."""
    model = parse(text, arrays)
    before = outputs(model, x=X)[0]
    assert fold_attention_scale(model, cpu)
    after = outputs(model, x=X)[0]
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5 * float(np.abs(before).max()))
    return set(model.graph.initializers)


def test_the_scale_goes_into_the_query(parse, outputs, op_types, cpu, golden_text) -> None:
    assert "scale" not in _folded(parse, outputs, cpu, SEPARATE, ARRAYS)
    model = parse(SEPARATE, ARRAYS)
    assert fold_attention_scale(model, cpu)
    assert "Mul" not in op_types(model)
    assert not fold_attention_scale(model, cpu)
    golden_text(model, "fold_attention_scale.after")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("qs = Mul(qh, scale)", "qs = Mul(scale, qh)"),
        ("qs = Mul(qh, scale)", "qs = Div(qh, scale)"),
        ("qs = Mul(qh, scale)\n    scores = MatMul(qs, kh)", "raw = MatMul(qh, kh) scores = Mul(raw, scale)"),
        ("qs = Mul(qh, scale)\n    scores = MatMul(qs, kh)", "raw = MatMul(qh, kh) scores = Div(raw, scale)"),
        ("qs = Mul(qh, scale)\n    scores = MatMul(qs, kh)", "ks = Mul(kh, scale) scores = MatMul(qh, ks)"),
    ],
)
def test_other_places_of_the_scale(parse, outputs, cpu, old, new) -> None:
    assert old in SEPARATE
    assert "scale" not in _folded(parse, outputs, cpu, SEPARATE.replace(old, new), ARRAYS)


def test_a_scale_on_both_sides(parse, outputs, cpu) -> None:
    text = SEPARATE.replace("scores = MatMul(qs, kh)", "ks = Mul(kh, scale) scores = MatMul(qs, ks)")
    assert "scale" not in _folded(parse, outputs, cpu, text, ARRAYS)


def test_split_query_key_value(parse, outputs, cpu) -> None:
    text = """g (float[1,5,8] x) => (float[1,5,5] scores) {
        p = MatMul(x, w)  qkv = Add(p, b)
        q, k, v = Split<axis = 2, num_outputs = 3>(qkv)
        qs = Mul(q, scale)  kt = Transpose<perm = [0,2,1]>(k)  raw = MatMul(qs, kt)
        mixed = MatMul(raw, v)  mt = Transpose<perm = [0,2,1]>(v)  scores = MatMul(mixed, mt)
    }"""
    assert "scale" not in _folded(parse, outputs, cpu, text, FUSED)


def test_gathered_query_key_value(parse, outputs, cpu) -> None:
    text = """g (float[1,5,8] x) => (float[1,2,5,5] scores) {
        p = MatMul(x, w)  qkv = Add(p, b)
        five = Reshape(qkv, shape)  turned = Transpose<perm = [2,0,3,1,4]>(five)
        q = Gather<axis = 0>(turned, zero)  k = Gather<axis = 0>(turned, one)
        qs = Mul(q, scale)  kt = Transpose<perm = [0,1,3,2]>(k)  scores = MatMul(qs, kt)
    }"""
    arrays = {**FUSED, "shape": np.array([1, 5, 3, 2, 3]), "zero": np.array(0), "one": np.array(1)}
    assert "scale" not in _folded(parse, outputs, cpu, text, arrays)


@settings(max_examples=30, deadline=None)
@given(bounds=st.lists(st.integers(0, 18), min_size=4, max_size=4), seed=st.integers(0, 99))
def test_sliced_columns_are_scaled_only_where_nobody_else_sees_them(parse, outputs, cpu, bounds, seed) -> None:
    (a, b), (c, d) = sorted(bounds[:2]), sorted(bounds[2:])
    if a == b or c == d:
        return
    random = np.random.default_rng(seed)
    arrays = {name: random.standard_normal(array.shape).astype(np.float32) for name, array in FUSED.items()}
    arrays |= {"axes": np.array([2])} | {name: np.array([n]) for name, n in zip("cdef", (a, b, c, d), strict=True)}
    text = f"""g (float[1,5,8] x) => (float[1,5,{b - a}] y, float[1,5,{d - c}] z) {{
        p = MatMul(x, w)  qkv = Add(p, b)
        q = Slice(qkv, c, d, axes)  z = Slice(qkv, e, f, axes)  y = Mul(q, scale)
    }}"""
    model = parse(text, arrays)
    before = outputs(model, x=X)
    overlap = max(a, c) < min(b, d)
    assert fold_attention_scale(model, cpu) is not overlap
    for found, expected in zip(outputs(model, x=X), before, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_normed_query_takes_it_into_its_gain(transformer, outputs, op_types, cpu) -> None:
    model = transformer(qk_norm=True)
    infer_shapes(model, cpu)
    pixels = RANDOM.integers(0, 256, (1, 3, 16, 16), dtype=np.uint8)
    before = outputs(model, pixels=pixels)[0]
    count = op_types(model).count("Mul")
    assert fold_attention_scale(model, cpu)
    assert op_types(model).count("Mul") == count - 2
    np.testing.assert_allclose(outputs(model, pixels=pixels)[0], before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("kh = Transpose<perm = [0,2,3,1]>(kr)", "kh = Transpose<perm = [0,1,3,2]>(qh)"),
        ("kr = Reshape(k, shape)", "kr = Reshape(q, shape)"),
        ("qs = Mul(qh, scale)", "qx = Softmax(qh) qs = Mul(qx, scale)"),
        ("qs = Mul(qh, scale)", "qs = Mul(qh, qh)"),
        ("float[1,2,5,5] scores)", "float[1,2,5,5] scores, float[1,5,6] q)"),
        ("float[1,2,5,5] scores)", "float[1,2,5,5] scores, float[1,5,6] qp)"),
        ("float[1,2,5,5] scores)", "float[1,2,5,5] scores, float[1,5,2,3] qr)"),
    ],
)
def test_no_match(parse, op_types, cpu, old, new) -> None:
    assert old in SEPARATE
    model = parse(SEPARATE.replace(old, new), ARRAYS)
    before = op_types(model)
    assert not fold_attention_scale(model, cpu)
    assert op_types(model) == before


def test_a_scale_per_head_is_left(parse, cpu) -> None:
    assert not fold_attention_scale(parse(SEPARATE, {**ARRAYS, "scale": np.ones((1, 2, 1, 1), np.float32)}), cpu)
