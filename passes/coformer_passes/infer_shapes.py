"""Write the shape and type of every value into the graph."""

from __future__ import annotations

import onnx_ir as ir

from coformer_targets import Target


def infer_shapes(model: ir.Model, target: Target) -> bool:
    """Run ONNX shape inference, so that later passes know every shape and type.

    Given::

        graph (float[1,4] x) => (y) { y = Relu(x) }

    Result::

        graph (float[1,4] x) => (float[1,4] y) { y = Relu(x) }

    Why: widths, token counts and types decide what later passes may do, and what the target takes.
    TensorRT: all versions, and ONNX Runtime.
    Source: onnx.shape_inference through onnx_ir, which keeps big weights out of it.
    """
    return bool(_pass()(model).modified)


def _pass() -> ir.passes.InPlacePass:
    from onnx_ir.passes.common import ShapeInferencePass

    return ShapeInferencePass()
