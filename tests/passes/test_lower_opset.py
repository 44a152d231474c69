"""Tests of coformer_passes.lower_opset."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from coformer_passes.lower_opset import lower_opset
from coformer_runtime.errors import CoformerError

X = np.random.default_rng(0).standard_normal((1, 4, 6)).astype(np.float32)


def test_a_mean_gets_its_axes_as_an_attribute(parse, outputs, nano, golden_text) -> None:
    model = parse(
        "g (float[1,4,6] x) => (float[1,4,1] y) { y = ReduceMean<keepdims = 1, noop_with_empty_axes = 0>(x, axes) }",
        {"axes": np.array([-1])},
    )
    before = outputs(model, x=X)[0]
    assert lower_opset(model, nano)
    assert (model.graph.opset_imports, model.ir_version) == ({"": 13}, 7)
    node = model.graph.node(0)
    assert list(node.attributes["axes"].as_ints()) == [-1] and len(node.inputs) == 1
    assert not model.graph.initializers
    np.testing.assert_array_equal(outputs(model, x=X)[0], before)
    golden_text(model, "lower_opset.mean")


@pytest.mark.parametrize("op_type", ["ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare"])
def test_other_reductions_too(parse, outputs, nano, op_type) -> None:
    model = parse(
        f"g (float[1,4,6] x) => (float[1,6] y) {{ y = {op_type}<keepdims=0>(x, axes) }}", {"axes": np.array([1])}
    )
    before = outputs(model, x=X)[0]
    assert lower_opset(model, nano)
    np.testing.assert_array_equal(outputs(model, x=X)[0], before)


def test_reduce_sum_keeps_its_axes_as_an_input(parse, outputs, nano) -> None:
    model = parse("g (float[1,4,6] x) => (float[1,4,1] y) { y = ReduceSum(x, axes) }", {"axes": np.array([-1])})
    assert lower_opset(model, nano)
    assert len(model.graph.node(0).inputs) == 2
    np.testing.assert_allclose(outputs(model, x=X)[0], X.sum(-1, keepdims=True), rtol=1e-5)


def test_split_gets_its_sizes(parse, outputs, nano) -> None:
    third = "float[1,4,2]"
    model = parse(
        f"g (float[1,4,6] x) => ({third} a, {third} b, {third} c) {{ a, b, c = Split<axis = -1, num_outputs = 3>(x) }}"
    )
    before = outputs(model, x=X)
    assert lower_opset(model, nano)
    for found, expected in zip(outputs(model, x=X), before, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_an_uneven_split(parse, outputs, nano) -> None:
    text = "g (float[1,4,6] x) => (float[1,2,6] a, float[1,2,6] b) { a, b = Split<axis = 1, num_outputs = 2>(x) }"
    model = parse(text.replace("[1,4,6]", "[1,3,6]").replace("[1,2,6] b", "[1,1,6] b"))
    before = outputs(model, x=X[:, :3])
    assert lower_opset(model, nano)
    for found, expected in zip(outputs(model, x=X[:, :3]), before, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_pad_gets_the_pads_of_all_axes(parse, outputs, nano) -> None:
    text = "g (float[1,4,6] x) => (float[1,4,9] y) { y = Pad(x, pads, , axes) }"
    model = parse(text, {"pads": np.array([1, 2]), "axes": np.array([-1])})
    before = outputs(model, x=X)[0]
    assert lower_opset(model, nano)
    np.testing.assert_array_equal(outputs(model, x=X)[0], before)


def test_defaults_of_newer_attributes_are_dropped(parse, outputs, nano) -> None:
    model = parse(
        "g (float[1,4,6] x) => (float[1,24] y) "
        "{ i = Cast<to = 1, saturate = 1>(x) y = Reshape<allowzero = 1>(i, shape) }",
        {"shape": np.array([1, 24])},
    )
    assert lower_opset(model, nano)
    assert "allowzero" not in model.graph.node(1).attributes and "saturate" not in model.graph.node(0).attributes
    np.testing.assert_array_equal(outputs(model, x=X)[0], X.reshape(1, 24))


@pytest.mark.parametrize(
    ("text", "opset", "arrays"),
    [
        (
            'g (float[1,1,4,6] x) => (float[1,1,8,12] y) { y = Resize<mode = "linear", antialias = 0, '
            'keep_aspect_ratio_policy = "stretch">(x, , s) }',
            18,
            {"s": np.array([1, 1, 2, 2], np.float32)},
        ),
        (
            "g (float[1,1,4,6] x) => (float[1,1,2,3] y) "
            "{ y = AveragePool<kernel_shape = [2,2], strides = [2,2], dilations = [1,1]>(x) }",
            19,
            {},
        ),
        (
            "g (float[1,1,4,6] x) => (float[1,1,3,5] y) { y = LpPool<kernel_shape = [2,2], dilations = [1,1]>(x) }",
            18,
            {},
        ),
        (
            'g (float[1,1,4,6] x) => (float[1,1,4,6] y) { y = ScatterND<reduction = "none">(x, i, u) }',
            18,
            {"i": np.zeros((1, 3), np.int64), "u": np.ones((1, 6), np.float32)},
        ),
        (
            "g (float[1,1,4,6] x) => (float[1,1,4,6] y) { y = BatchNormalization<training_mode = 0>(x, n, n, n, n) }",
            18,
            {"n": np.ones(1, np.float32)},
        ),
        ("g (float[1,1,4,6] x) => (int64[4] y) { y = Shape<start = 0>(x) }", 18, {}),
    ],
)
def test_a_newer_attribute_that_holds_its_default_is_dropped(parse, outputs, nano, text, opset, arrays) -> None:
    model = parse(text, arrays, opset=opset)
    x = X.reshape(1, 1, 4, 6)
    before = outputs(model, x=x)[0]
    assert lower_opset(model, nano) and model.graph.opset_imports[""] == 13
    np.testing.assert_allclose(outputs(model, x=x)[0], before, rtol=1e-6)


def test_a_reshape_to_zeros_keeps_what_it_means_by_them(parse, nano) -> None:
    """`allowzero = 1` is no default, and speaks of a zero here."""
    text = "g (float[0,4] x) => (float[0,2] y) { y = Reshape<allowzero = 1>(x, shape) }"
    with pytest.raises(CoformerError, match=r"'y' \(Reshape: attribute allowzero\)"):
        lower_opset(parse(text, {"shape": np.array([0, 2])}), nano)
    model = parse(
        "g (float[2,4] x) => (float[2,4] y) { y = Reshape<allowzero = 0>(x, shape) }", {"shape": np.array([0, 4])}
    )
    assert lower_opset(model, nano) and not model.graph.node(0).attributes


def test_metadata_goes_below_ir_10(parse, nano, cpu) -> None:
    model = parse("g (float[1,4] x) => (float[1,4] y) { y = Relu(x) }")
    model.graph.node(0).metadata_props["block"] = "layers.0"
    assert not lower_opset(model, cpu)
    assert model.graph.node(0).metadata_props
    assert lower_opset(model, nano)
    assert not model.graph.node(0).metadata_props


def test_an_opset_is_never_raised(parse, nano) -> None:
    model = parse("g (float[1,4] x) => (float[1,4] y) { y = Relu(x) }", opset=13, ir_version=7)
    assert not lower_opset(model, nano)
    assert model.graph.opset_imports == {"": 13}


def test_a_middle_opset_keeps_what_it_has(parse, orin) -> None:
    model = parse("g (float[1,4,6] x) => (float[1,4,1] y) { y = ReduceMean(x, axes) }", {"axes": np.array([-1])})
    assert lower_opset(model, dataclasses.replace(orin, opset=18))
    assert len(model.graph.node(0).inputs) == 2


def test_all_that_cannot_be_lowered_is_listed(parse, nano) -> None:
    model = parse(
        "g (float[1,4] x, float[1,4] w) => (float[1,4] y) { a = Gelu(x) b = LayerNormalization(a, w) y = Mish(b) }"
    )
    with pytest.raises(CoformerError) as caught:
        lower_opset(model, nano)
    assert str(caught.value) == (
        "lower_opset: 3 of the nodes cannot be written in opset 13 of jetson-nano: 'a' (Gelu: not in opset 13), "
        "'b' (LayerNormalization: not in opset 13), 'y' (Mish: not in opset 13); Gelu: run the pass decompose_gelu; "
        "LayerNormalization: run the pass decompose_layer_norm; "
        "Mish: write it with operators of the table, or take a newer target"
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("g (float[1,4] x, int64[1] axes) => (float[?,?] y) { y = ReduceMean(x, axes) }", "'y' (ReduceMean: 2 inputs)"),
        ("g (float[1,4] x) => (int64[1] y) { y = Shape<start = 1>(x) }", "'y' (Shape: attribute start)"),
        ("g (int16[1,4] x) => (int16[1,4] y) { y = Add(x, x) }", "'y' (Add: type int16)"),
        (
            "g (float[1,1,8,8] x) => (float[?,?,?,?] y) { y = AveragePool<kernel_shape=[2,2], dilations=[2,2]>(x) }",
            "'y' (AveragePool: attribute dilations)",
        ),
    ],
)
def test_a_form_that_the_older_operator_lacks(parse, nano, text, problem) -> None:
    with pytest.raises(CoformerError) as caught:
        lower_opset(parse(text), nano)
    assert problem in str(caught.value)


def test_a_target_below_opset_13_is_refused(parse, nano) -> None:
    model = parse("g (float[1,4] x) => (float[1,4] y) { y = Relu(x) }")
    with pytest.raises(CoformerError) as caught:
        lower_opset(model, dataclasses.replace(nano, opset=11))
    assert str(caught.value) == (
        "lower_opset: opset 11 of target 'jetson-nano' is below 13; set the target's opset to 13 or more"
    )
