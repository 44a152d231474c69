"""Tests of coformer_passes.linear."""

from __future__ import annotations

import numpy as np
import pytest

from coformer_passes.linear import linear_from_product, linear_that_makes, set_weight_and_bias

W = np.arange(12, dtype=np.float32).reshape(4, 3)
B = np.arange(3, dtype=np.float32)
X = np.ones((2, 4), np.float32)
FORMS = {
    "MatMul": ("y = MatMul(x, w)", {"w": W}),
    "MatMul and Add": ("p = MatMul(x, w) y = Add(p, b)", {"w": W, "b": B}),
    "Add with the bias first": ("p = MatMul(x, w) y = Add(b, p)", {"w": W, "b": B}),
    "Gemm": ("y = Gemm(x, w)", {"w": W}),
    "Gemm with bias": ("y = Gemm(x, w, b)", {"w": W, "b": B}),
    "Gemm, transposed": ("y = Gemm<transB = 1>(x, w, b)", {"w": W.T.copy(), "b": B}),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read_and_written(parse, outputs, form) -> None:
    line, arrays = FORMS[form]
    model = parse(f"g (float[2,4] x) => (float[2,3] y) {{ {line} }}", arrays)
    linear = linear_from_product(model.graph.node(0))
    assert linear is not None and linear.output.name == "y"
    made_by = linear_that_makes(linear.output)
    assert made_by is not None and made_by.product is linear.product
    np.testing.assert_array_equal(linear.weight, W)
    assert (linear.bias is None) == ("b" not in arrays)
    before = outputs(model, x=X)[0]
    set_weight_and_bias(linear, 2 * linear.weight, None if linear.bias is None else 2 * linear.bias)
    np.testing.assert_array_equal(outputs(model, x=X)[0], 2 * before)


@pytest.mark.parametrize(
    "line",
    [
        "y = Gemm<alpha = 2.0>(x, w, b)",
        "y = Gemm<beta = 2.0>(x, w, b)",
        "xt = Transpose(x) y = Gemm<transA = 1>(xt, w, b)",
        "y = MatMul(x, v)",
        "y = Relu(z)",
    ],
)
def test_what_is_no_linear_layer(parse, line) -> None:
    model = parse(f"g (float[2,4] x, float[4,3] v, float[2,3] z) => (float[2,3] y) {{ {line} }}", {"w": W, "b": B})
    assert linear_from_product(model.graph.node(len(model.graph) - 1)) is None


def test_a_product_that_others_read_has_no_bias(parse) -> None:
    model = parse(
        "g (float[2,4] x) => (float[2,3] y, float[2,3] z) { p = MatMul(x, w) y = Add(p, b) z = Relu(p) }",
        {"w": W, "b": B},
    )
    linear = linear_from_product(model.graph.node(0))
    assert linear is not None and linear.bias is None and linear.output.name == "p"
    assert linear_that_makes(model.graph.outputs[0]) is None
