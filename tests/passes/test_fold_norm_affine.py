"""Tests of coformer_passes.fold_norm_affine."""

from __future__ import annotations

import numpy as np
import pytest

from coformer_passes.fold_norm_affine import fold_norm_affine

RANDOM = np.random.default_rng(0)
ARRAYS = {
    "gain": RANDOM.uniform(0.5, 2.0, 8).astype(np.float32),
    "bias": RANDOM.standard_normal(8).astype(np.float32),
    "wq": RANDOM.standard_normal((8, 4)).astype(np.float32),
    "bq": RANDOM.standard_normal(4).astype(np.float32),
    "wk": RANDOM.standard_normal((8, 6)).astype(np.float32),
    "bk": RANDOM.standard_normal(6).astype(np.float32),
}
X = RANDOM.standard_normal((1, 5, 8)).astype(np.float32)
GRAPH = """g (float[1,5,8] x) => (float[1,5,4] q, float[1,5,6] k) {
    h = LayerNormalization(x, gain, bias)
    qp = MatMul(h, wq)
    q = Add(qp, bq)
    kp = MatMul(h, wk)
    k = Add(bk, kp)
}"""


def test_gain_and_bias_go_into_every_reader(parse, outputs, cpu, golden_text) -> None:
    model = parse(GRAPH, ARRAYS)
    before = outputs(model, x=X)
    assert fold_norm_affine(model, cpu)
    norm = model.graph.node(0)
    assert len(norm.inputs) == 2 and (norm.inputs[1].const_value.numpy() == 1.0).all()
    assert "bias" not in model.graph.initializers
    for found, expected in zip(outputs(model, x=X), before, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    golden_text(model, "fold_norm_affine.after")


def test_a_second_run_finds_nothing(parse, cpu) -> None:
    model = parse(GRAPH, ARRAYS)
    fold_norm_affine(model, cpu)
    assert not fold_norm_affine(model, cpu)


@pytest.mark.parametrize("trans_b", [0, 1])
def test_gemm_reads_a_norm(parse, outputs, cpu, trans_b) -> None:
    arrays = {**ARRAYS, "wq": ARRAYS["wq"].T.copy() if trans_b else ARRAYS["wq"]}
    model = parse(
        f"g (float[5,8] x) => (float[5,4] q) {{ h = LayerNormalization(x, gain, bias) "
        f"q = Gemm<transB = {trans_b}>(h, wq, bq) }}",
        {name: arrays[name] for name in ("gain", "bias", "wq", "bq")},
    )
    before = outputs(model, x=X[0])[0]
    assert fold_norm_affine(model, cpu)
    np.testing.assert_allclose(outputs(model, x=X[0])[0], before, rtol=1e-5, atol=1e-5)


def test_a_weight_that_two_layers_share_is_split(parse, outputs, cpu) -> None:
    text = (
        GRAPH.replace("MatMul(h, wk)", "MatMul(x, wq)").replace("Add(bk, kp)", "Add(bq, kp)").replace("1,5,6", "1,5,4")
    )
    model = parse(text, {name: array for name, array in ARRAYS.items() if name not in ("wk", "bk")})
    before = outputs(model, x=X)
    assert fold_norm_affine(model, cpu)
    for found, expected in zip(outputs(model, x=X), before, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_layer_without_bias_takes_a_gain_but_no_bias(parse, outputs, cpu) -> None:
    text = "g (float[1,5,8] x) => (float[1,5,4] q) { h = LayerNormalization(x, gain, bias) q = MatMul(h, wq) }"
    some = {name: ARRAYS[name] for name in ("gain", "bias", "wq")}
    assert not fold_norm_affine(parse(text, some), cpu)
    model = parse(text, {**some, "bias": np.zeros(8, np.float32)})
    before = outputs(model, x=X)[0]
    assert fold_norm_affine(model, cpu)
    np.testing.assert_allclose(outputs(model, x=X)[0], before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("kp = MatMul(h, wk)", "r = Relu(h) kp = MatMul(r, wk)"),
        ("float[1,5,6] k)", "float[1,5,6] k, float[1,5,8] h)"),
        ("LayerNormalization(x, gain, bias)", "LayerNormalization<axis = 1>(x, gain, bias)"),
        ("kp = MatMul(h, wk)", "ht = Transpose<perm = [0,2,1]>(h) kp = MatMul(h, wk) unused = MatMul(h, ht)"),
    ],
)
def test_no_match(parse, op_types, cpu, old, new) -> None:
    arrays = dict(ARRAYS)
    if "axis = 1" in new:
        arrays["gain"], arrays["bias"] = np.ones((5, 8), np.float32) * 2, np.ones((5, 8), np.float32)
    model = parse(GRAPH.replace(old, new), arrays)
    before = op_types(model)
    assert not fold_norm_affine(model, cpu)
    assert op_types(model) == before


def test_a_plain_norm_is_left(parse, cpu) -> None:
    arrays = {name: array for name, array in ARRAYS.items() if name != "bias"}
    model = parse(GRAPH.replace("gain, bias", "gain"), {**arrays, "gain": np.ones(8, np.float32)})
    assert not fold_norm_affine(model, cpu)
