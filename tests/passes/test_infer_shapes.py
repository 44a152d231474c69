"""Tests of coformer_passes.infer_shapes."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from coformer_passes.infer_shapes import infer_shapes

TEXT = '<ir_version: 10, opset_import: ["": 20]> g (float[1,6] x) => (float[1,6] y) { h = Relu(x) y = Neg(h) }'


def test_every_value_gets_its_shape_and_type(cpu) -> None:
    model = ir.from_proto(onnx.parser.parse_model(TEXT))
    assert model.graph.node(0).outputs[0].shape is None
    assert infer_shapes(model, cpu)
    hidden = model.graph.node(0).outputs[0]
    assert hidden.shape == ir.Shape((1, 6)) and hidden.dtype == ir.DataType.FLOAT


def test_what_is_known_is_not_changed(cpu) -> None:
    model = ir.from_proto(onnx.parser.parse_model(TEXT))
    infer_shapes(model, cpu)
    assert not infer_shapes(model, cpu)


def test_big_weights_survive(transformer, cpu) -> None:
    model = transformer()
    before = {name: value.const_value for name, value in model.graph.initializers.items()}
    infer_shapes(model, cpu)
    assert {name: value.const_value for name, value in model.graph.initializers.items()} == before
    assert len(model.graph.inputs) == 1
