"""Tests of coformer_passes.widen_input."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from coformer_passes.widen_input import widen_input
from coformer_runtime.errors import CoformerError

PIXELS = np.arange(4, dtype=np.uint8).reshape(1, 4)
GRAPH = "g (uint8[1,4] pixels) => (float[1,4] y) { floats = Cast<to = 1>(pixels) y = Relu(floats) }"


def test_the_input_becomes_float32_and_the_cast_goes(parse, outputs, op_types, nano, golden_text) -> None:
    model = parse(GRAPH)
    before = outputs(model, pixels=PIXELS)[0]
    assert widen_input(model, nano)
    assert op_types(model) == ["Relu"] and model.graph.inputs[0].dtype == ir.DataType.FLOAT
    np.testing.assert_array_equal(outputs(model, pixels=PIXELS.astype(np.float32))[0], before)
    golden_text(model, "widen_input.after")


def test_a_target_that_takes_uint8_keeps_it(parse, op_types, cpu, orin) -> None:
    for target in (cpu, orin):
        model = parse(GRAPH)
        assert not widen_input(model, target)
        assert op_types(model) == ["Cast", "Relu"] and model.graph.inputs[0].dtype == ir.DataType.UINT8


def test_a_float_input_needs_nothing(parse, nano) -> None:
    assert not widen_input(parse("g (float[1,4] x) => (float[1,4] y) { y = Relu(x) }"), nano)


def test_several_casts_of_one_input_all_go(parse, outputs, op_types, nano) -> None:
    model = parse(
        "g (uint8[1,4] pixels) => (float[1,4] y) { a = Cast<to = 1>(pixels) b = Cast<to = 1>(pixels) y = Add(a, b) }"
    )
    assert widen_input(model, nano)
    assert op_types(model) == ["Add"]
    np.testing.assert_array_equal(outputs(model, pixels=PIXELS.astype(np.float32))[0], 2.0 * PIXELS)


def test_a_cast_that_is_an_output_stays_as_a_copy(parse, outputs, nano) -> None:
    model = parse("g (uint8[1,4] pixels) => (float[1,4] y) { y = Cast<to = 1>(pixels) }")
    assert widen_input(model, nano)
    np.testing.assert_array_equal(outputs(model, pixels=PIXELS.astype(np.float32))[0], PIXELS)


def test_another_reader_of_the_bytes_is_refused(parse, nano) -> None:
    model = parse("g (uint8[1,4] pixels) => (uint8[1,4] y) { y = Add(pixels, pixels) }")
    with pytest.raises(CoformerError) as caught:
        widen_input(model, nano)
    assert str(caught.value) == (
        "widen_input: node 'y' (Add) reads the uint8 input 'pixels', and jetson-nano (TensorRT 8.2.1) takes no uint8; "
        "cast the input to float32 before any other node reads it"
    )
    assert model.graph.inputs[0].dtype == ir.DataType.UINT8


def test_a_cast_to_another_type_is_refused(parse, nano) -> None:
    model = parse("g (uint8[1,4] pixels) => (int32[1,4] y) { y = Cast<to = 6>(pixels) }")
    with pytest.raises(CoformerError, match=r"node 'y' \(Cast\) reads the uint8 input"):
        widen_input(model, nano)
