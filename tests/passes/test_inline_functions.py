"""Tests of coformer_passes.inline_functions."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from coformer_passes.inline_functions import inline_functions

FUNCTIONS = """<ir_version: 10, opset_import: ["": 20, "mine": 1]>
g (float[1,4] x) => (float[1,4] y) { h = mine.twice(x) y = mine.twice(h) }
<domain: "mine", opset_import: ["": 20]> twice (a) => (b) { b = Add(a, a) }"""


def test_calls_become_bodies(outputs, op_types, nano) -> None:
    model = ir.from_proto(onnx.parser.parse_model(FUNCTIONS))
    assert inline_functions(model, nano)
    assert op_types(model) == ["Add", "Add"]
    assert (model.graph.opset_imports, len(model.functions)) == ({"": 20}, 0)
    x = np.ones((1, 4), np.float32)
    np.testing.assert_array_equal(outputs(model, x=x)[0], 4 * x)


def test_a_model_without_functions_stays(parse, nano) -> None:
    assert not inline_functions(parse("g (float[4] x) => (float[4] y) { y = Relu(x) }"), nano)
