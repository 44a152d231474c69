"""Tests of coformer_passes.fold_constants."""

from __future__ import annotations

import numpy as np
import pytest

from coformer_passes.fold_constants import fold_constants

X = np.random.default_rng(0).standard_normal((1, 4, 4)).astype(np.float32)


def test_a_causal_mask_becomes_an_initializer(parse, outputs, op_types, nano, golden_text) -> None:
    text = """g (float[1,4,4] x) => (float[1,4,4] y) {
        size = Shape(x)  n = Gather(size, one)  side = Unsqueeze(n, zero)  shape = Concat<axis = 0>(side, side)
        ones = Expand(infinity, shape)  mask = Trilu<upper = 1>(ones, k)  y = Add(x, mask)
    }"""
    arrays = {"one": np.array(1), "zero": np.array([0]), "k": np.array(1), "infinity": np.full((1,), -1e4, np.float32)}
    model = parse(text, arrays)
    before = outputs(model, x=X)[0]
    assert fold_constants(model, nano)
    assert op_types(model) == ["Add"] and len(model.graph.initializers) == 1
    np.testing.assert_array_equal(outputs(model, x=X)[0], before)
    assert not fold_constants(model, nano)
    golden_text(model, "fold_constants.after")


def test_constant_nodes_become_initializers(parse, outputs, op_types, nano) -> None:
    model = parse("g (float[1,4,4] x) => (float[1,4,4] y) { two = Constant<value_float = 2.0>() y = Mul(x, two) }")
    assert fold_constants(model, nano)
    assert op_types(model) == ["Mul"]
    np.testing.assert_array_equal(outputs(model, x=X)[0], 2 * X)


@pytest.mark.parametrize("line", ["z = Range(a, b, c)", "z = Mod(b, c)", "z = Where(t, b, c)", "z = CastLike(b, c)"])
def test_leftovers_of_tracers(parse, outputs, op_types, nano, line) -> None:
    arrays = {name: np.array(number) for name, number in zip("abc", (0, 4, 1), strict=True)} | {"t": np.array(True)}
    model = parse(f"g (float[1,4,4] x) => (float[1,4,4] y) {{ {line} f = Cast<to = 1>(z) y = Add(x, f) }}", arrays)
    before = outputs(model, x=X)[0]
    assert fold_constants(model, nano)
    assert op_types(model) == ["Add"]
    np.testing.assert_array_equal(outputs(model, x=X)[0], before)


@pytest.mark.parametrize(
    "line",
    [
        "y = Add(x, c)",
        "r = RandomUniform<shape = [4, 4]>() y = Add(x, r)",
        "e = Expand(c, big) s = ReduceSum<keepdims = 0>(e) y = Add(x, s)",
    ],
)
def test_what_is_left(parse, op_types, nano, line) -> None:
    model = parse(
        f"g (float[1,4,4] x) => (float[1,4,4] y) {{ {line} }}",
        {"c": np.ones((), np.float32), "big": np.array([2048, 1024])},
    )
    before = op_types(model)
    assert not fold_constants(model, nano)
    assert op_types(model) == before


def test_a_constant_output_is_left(parse, nano) -> None:
    model = parse(
        "g (float[1] x) => (float[1] y, float[1] z) { y = Relu(x) z = Relu(c) }", {"c": np.ones(1, np.float32)}
    )
    assert not fold_constants(model, nano)


def test_the_shape_of_a_dynamic_value_is_left(parse, op_types, nano) -> None:
    model = parse("g (float[n,4] x) => (int64[2] y) { s = Shape(x) y = Neg(s) }")
    assert not fold_constants(model, nano)
    assert op_types(model) == ["Shape", "Neg"]
