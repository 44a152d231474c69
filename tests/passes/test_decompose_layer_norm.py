"""Tests of coformer_passes.decompose_layer_norm."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from coformer_passes.decompose_layer_norm import decompose_layer_norm
from coformer_runtime.errors import CoformerError

GRAPH = (
    "g (float[1,5,8] x) => (float[1,5,8] y) { y = LayerNormalization<axis = -1, epsilon = 0.000001>(x, gain, bias) }"
)
RANDOM = np.random.default_rng(0)
ARRAYS = {
    "gain": RANDOM.uniform(0.5, 2.0, 8).astype(np.float32),
    "bias": RANDOM.standard_normal(8).astype(np.float32),
}
X = RANDOM.standard_normal((1, 5, 8)).astype(np.float32)
BARE = ["ReduceMean", "Sub", "Mul", "Mul", "ReduceSum", "Add", "Sqrt", "Div"]


def test_the_norm_is_written_out(parse, outputs, op_types, nano, golden_text) -> None:
    model = parse(GRAPH, ARRAYS)
    before = outputs(model, x=X)[0]
    assert decompose_layer_norm(model, nano)
    assert op_types(model) == [*BARE, "Mul", "Add"]
    assert model.graph.outputs[0].name == "y"
    np.testing.assert_allclose(outputs(model, x=X)[0], before, rtol=1e-5, atol=1e-6)
    golden_text(model, "decompose_layer_norm.after")


def test_a_gain_of_ones_and_a_bias_of_zeros_write_nothing(parse, outputs, op_types, nano) -> None:
    model = parse(GRAPH, {"gain": np.ones(8, np.float32), "bias": np.zeros(8, np.float32)})
    before = outputs(model, x=X)[0]
    assert decompose_layer_norm(model, nano)
    assert op_types(model) == BARE
    np.testing.assert_allclose(outputs(model, x=X)[0], before, rtol=1e-5, atol=1e-6)


def test_a_norm_without_bias(parse, outputs, op_types, nano) -> None:
    model = parse(GRAPH.replace("(x, gain, bias)", "(x, gain)"), {"gain": ARRAYS["gain"]})
    before = outputs(model, x=X)[0]
    assert decompose_layer_norm(model, nano)
    assert op_types(model) == [*BARE, "Mul"]
    np.testing.assert_allclose(outputs(model, x=X)[0], before, rtol=1e-5, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(
    shape=st.lists(st.integers(1, 6), min_size=2, max_size=4),
    axis=st.integers(-2, -1),
    epsilon=st.sampled_from([1e-12, 1e-6, 1e-5, 1e-3]),
    scale=st.sampled_from([1e-2, 1.0, 1e3]),
)
def test_any_shape_axis_and_epsilon(parse, outputs, nano, shape, axis, epsilon, scale) -> None:
    random = np.random.default_rng(1)
    dims = ",".join(str(dim) for dim in shape)
    arrays = {name: random.standard_normal(shape[axis:]).astype(np.float32) for name in ("gain", "bias")}
    model = parse(
        f"g (float[{dims}] x) => (float[{dims}] y) "
        f"{{ y = LayerNormalization<axis = {axis}, epsilon = {epsilon:.12f}>(x, gain, bias) }}",
        arrays,
    )
    x = (scale * random.standard_normal(shape)).astype(np.float32)
    before = outputs(model, x=x)[0]
    assert decompose_layer_norm(model, nano)
    np.testing.assert_allclose(outputs(model, x=x)[0], before, rtol=2e-4, atol=2e-4)


def test_an_outlier_survives_fp16_where_the_plain_order_does_not(parse, nano) -> None:
    width = 768
    x = RANDOM.standard_normal((1, 3, width)).astype(np.float16)
    x[:, :, 7] = 3000.0
    text = f"g (float[1,3,{width}] x) => (float[1,3,{width}] y) {{ y = LayerNormalization(x, gain) }}"
    model = parse(text, {"gain": np.ones(width, np.float32)})
    decompose_layer_norm(model, nano)
    wide = x.astype(np.float64)
    centred = wide - wide.mean(-1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)

    found = ReferenceEvaluator(_in_fp16(model)).run(None, {"x": x})[0]
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, expected, rtol=2e-2, atol=2e-3)
    with np.errstate(over="ignore"):
        assert np.isinf((x - x.mean(-1, keepdims=True, dtype=np.float16)) ** 2).any()


def _in_fp16(model: ir.Model):
    """The same graph with every float32 made float16."""
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        if value.dtype == ir.DataType.FLOAT:
            value.dtype = ir.DataType.FLOAT16
            if value.const_value is not None:
                value.const_value = ir.tensor(value.const_value.numpy().astype(np.float16), name=value.name)
    return ir.to_proto(model)


def test_an_engine_that_has_the_operator_keeps_it(parse, op_types, cpu, orin) -> None:
    for target in (cpu, orin):
        model = parse(GRAPH, ARRAYS)
        assert not decompose_layer_norm(model, target)
        assert op_types(model) == ["LayerNormalization"]


def test_a_graph_without_norms_is_left(parse, nano) -> None:
    assert not decompose_layer_norm(parse("g (float[1,4] x) => (float[1,4] y) { y = Relu(x) }"), nano)


def test_a_dynamic_width_is_refused(parse, nano) -> None:
    text = "g (float[1,n,8] x) => (float[1,n,8] y) { y = LayerNormalization(x, gain) }"
    with pytest.raises(CoformerError) as caught:
        decompose_layer_norm(parse(text, {"gain": ARRAYS["gain"]}), nano)
    assert str(caught.value) == (
        "decompose_layer_norm: node 'y' has an input of unknown or dynamic shape; "
        "give the graph static shapes and run infer_shapes first"
    )


def test_a_mean_that_others_read_is_refused(parse, nano) -> None:
    text = (
        "g (float[1,5,8] x) => (float[1,5,8] y, float[1,5,1] z) "
        "{ y, mean = LayerNormalization(x, gain, bias) z = Relu(mean) }"
    )
    with pytest.raises(
        CoformerError, match="node 'y' gives its mean or deviation to other nodes; remove those outputs"
    ):
        decompose_layer_norm(parse(text, ARRAYS), nano)
