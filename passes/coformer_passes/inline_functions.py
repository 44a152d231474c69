"""Put the bodies of functions in the place of their calls."""

from __future__ import annotations

import onnx_ir as ir

from coformer_targets import Target


def inline_functions(model: ir.Model, target: Target) -> bool:
    """Replace every call of a function that the model defines itself by the function's body.

    Given::

        <domain: "mine">  twice (x) => (y) { y = Add(x, x) }
        graph (x) => (y) { y = mine.twice(x) }

    Result::

        graph (x) => (y) { y = Add(x, x) }

    Why: tracers write modules as functions of a domain of their own, which no other pass looks into.
    TensorRT: up to 9 (functions from 10 on); every other pass here, and onnx 1.8.
    Source: onnx_ir's InlinePass.
    """
    if not model.functions:
        return False
    from onnx_ir.passes.common import InlinePass, RemoveUnusedOpsetsPass

    InlinePass()(model)
    RemoveUnusedOpsetsPass()(model)
    return True
