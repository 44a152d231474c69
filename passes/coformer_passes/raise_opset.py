"""Bring an older graph to the opset that the passes write."""

from __future__ import annotations

import onnx_ir as ir

from coformer_passes.check_operators import violations
from coformer_passes.numerics import proto_without_weights
from coformer_runtime.errors import CoformerError
from coformer_targets import Target

LOWEST_OPSET = 18


def raise_opset(model: ir.Model, target: Target) -> bool:
    """Convert a graph below opset 18 to opset 18; lower_opset brings it back to what the target takes.

    Given (opset 11)::

        y = Squeeze<axes = [0]>(x)          m = ReduceMean<axes = [-1]>(x)

    Result (opset 18)::

        y = Squeeze(x, {0})                 m = ReduceMean(x, {-1})

    A graph that the target takes as it is stays.

    Why: the passes read and write one form of each operator, that in which axes are inputs (opset 18).
    TensorRT: all versions, and ONNX Runtime.
    Source: onnx.version_converter, which knows every change of an operator; onnx docs/docs/Changelog.md.

    Raises:
        CoformerError: the converter does not know an operator's change.
    """
    opset = model.graph.opset_imports.get("", 0)
    if not 0 < opset < LOWEST_OPSET or (opset <= target.opset and not violations(model, target)):
        return False
    from onnx import version_converter

    weights = {name: value.const_value for name, value in model.graph.initializers.items()}
    inputs = [value.name for value in model.graph.inputs]
    proto, _ = proto_without_weights(model)
    try:
        converted = version_converter.convert_version(proto, LOWEST_OPSET)
    except RuntimeError as error:
        raise CoformerError(
            f"opset {opset} cannot be brought to {LOWEST_OPSET}: {' '.join(str(error).split())}",
            "raise_opset",
            f"export the graph at opset {LOWEST_OPSET} or later",
        ) from error
    graph = ir.from_proto(converted).graph
    for value in [value for value in graph.inputs if value.name not in inputs]:
        graph.inputs.remove(value)
        value.const_value = weights[str(value.name)]
        graph.register_initializer(value)
    model.graph = graph
    return True
