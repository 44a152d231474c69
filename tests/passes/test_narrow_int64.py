"""Tests of coformer_passes.narrow_int64."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from coformer_passes.narrow_int64 import narrow_int64
from coformer_runtime.errors import CoformerError

X = np.arange(24, dtype=np.float32).reshape(1, 4, 6)


def test_indices_become_int32(parse, outputs, nano, golden_text) -> None:
    model = parse("g (float[1,4,6] x) => (float[1,6] y) { y = Gather<axis = 1>(x, index) }", {"index": np.array(-1)})
    before = outputs(model, x=X)[0]
    assert narrow_int64(model, nano)
    assert model.graph.initializers["index"].dtype == ir.DataType.INT32
    np.testing.assert_array_equal(outputs(model, x=X)[0], before)
    assert not narrow_int64(model, nano)
    golden_text(model, "narrow_int64.gather")


def test_an_index_that_a_shape_shares_keeps_its_own(parse, outputs, nano) -> None:
    text = "g (float[1,4,6] x) => (float[2,6] y, float[24] z) { y = Gather<axis = 1>(x, i) z = Reshape(x, j) }"
    text = "g (float[1,4,6] x) => (float[1,1,6] y, float[3] z) { y = Gather<axis = 1>(x, i) z = Expand(one, i) }"
    model = parse(text, {"i": np.array([3]), "one": np.ones(1, np.float32)})
    before = outputs(model, x=X)
    assert narrow_int64(model, nano)
    for found, expected in zip(outputs(model, x=X), before, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_open_ends_of_a_slice_are_clamped(parse, outputs, nano) -> None:
    model = parse(
        "g (float[1,4,6] x) => (float[1,3,6] y) { y = Slice(x, start, end, axis) }",
        {"start": np.array([1]), "end": np.array([2**63 - 1]), "axis": np.array([1])},
    )
    before = outputs(model, x=X)[0]
    assert narrow_int64(model, nano)
    assert model.graph.initializers["end"].const_value.numpy().tolist() == [2**31 - 1]
    np.testing.assert_array_equal(outputs(model, x=X)[0], before)


def test_shapes_and_axes_stay(parse, nano) -> None:
    model = parse("g (float[1,4,6] x) => (float[24] y) { y = Reshape(x, shape) }", {"shape": np.array([-1])})
    assert not narrow_int64(model, nano)
    assert model.graph.initializers["shape"].dtype == ir.DataType.INT64


def test_an_engine_with_64_bits_needs_nothing(parse, cpu, orin) -> None:
    for target in (cpu, orin):
        model = parse("g (float[1,4,6] x) => (float[1,6] y) { y = Gather<axis = 1>(x, i) }", {"i": np.array(0)})
        assert not narrow_int64(model, target)


@pytest.mark.parametrize("number", [2**31, -(2**31) - 1, 2**63 - 1, -(2**63)])
def test_a_number_that_does_not_fit_is_refused(parse, nano, number) -> None:
    model = parse("g (int64[1] x) => (int64[1] y) { y = Add(x, big) }", {"big": np.array([number])})
    with pytest.raises(CoformerError) as caught:
        narrow_int64(model, dataclasses.replace(nano, name="attic"))
    assert str(caught.value) == (
        f"narrow_int64: 'big', read by Add, holds {number}; attic (TensorRT 8.2.1) computes in 32-bit integers; "
        "write the graph with numbers between -2147483648 and 2147483647"
    )


def test_computed_numbers_are_proved(parse, nano) -> None:
    text = "g (uint8[4] x) => (int64[4] y) { i = Cast<to = 7>(x) a = Mul(i, big) y = Add(a, one) }"
    assert not narrow_int64(parse(text, {"big": np.array([8_000_000]), "one": np.array([1])}), nano)
    with pytest.raises(CoformerError) as caught:
        narrow_int64(parse(text, {"big": np.array([10_000_000]), "one": np.array([1])}), nano)
    assert str(caught.value) == (
        "narrow_int64: 'a' can be 2550000000, 'y' can be 2550000001; jetson-nano (TensorRT 8.2.1) computes in 32-bit "
        "integers; limit what they are computed from, with Clip or Mod"
    )


def test_what_an_input_gives_is_taken_as_it_is(parse, nano) -> None:
    assert not narrow_int64(
        parse("g (int64[4] ids) => (int64[4] y) { y = Add(ids, one) }", {"one": np.array([2])}), nano
    )
