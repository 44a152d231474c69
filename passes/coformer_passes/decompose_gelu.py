"""Write Gelu out where the engine or the opset has none."""

from __future__ import annotations

import math

import onnx_ir as ir

from coformer_passes.rewriting import add_initializer, add_node, dtype_of, graph_of, is_op, name_of, take_over
from coformer_targets import Target, tensorrt_older_than


def decompose_gelu(model: ir.Model, target: Target) -> bool:
    """Write Gelu in its Erf form, or in its tanh form where it was the approximation.

    Given::

        y = Gelu(x)                              z = Gelu<approximate = "tanh">(x)

    Result::

        y = Mul(Mul(x, Add(Erf(Div(x, sqrt(2))), 1)), 0.5)
        z = Mul(Mul(x, Add(Tanh(Mul(x, Add(Mul(Mul(x, x), c), sqrt(2/pi)))), 1)), 0.5)     c = 0.044715·sqrt(2/pi)

    The cube is written x·(c·x² + d), so that no x³ overflows in FP16.

    Why: "no importer registered for op: Gelu". The Erf form is the one that PyTorch has always exported, so TensorRT
    and ONNX Runtime both know it as one fused node.
    TensorRT: up to 9 (importer from 10.0 on).
    Source: onnx-tensorrt docs/operators.md of 8.2 and 10.0; Hendrycks and Gimpel 2016 for both formulas.
    """
    if not needed(target):
        return False
    found = [node for node in model.graph if is_op(node, "Gelu")]
    for node in found:
        if node.attributes.get_string("approximate", "none") == "tanh":
            _write_tanh(node)
        else:
            _write_erf(node)
    return bool(found)


def needed(target: Target) -> bool:
    """Whether the target's engine or opset lacks Gelu (opset 20)."""
    return target.opset < 20 or tensorrt_older_than(target, 10, 0)


def _write_erf(node: ir.Node) -> None:
    x = node.inputs[0]
    assert x is not None
    name = name_of(node)
    scaled = add_node(node, "Div", [x, _number(node, "root_two", math.sqrt(2.0))], f"{name}.scaled", like=x)
    erf = add_node(node, "Erf", [scaled], f"{name}.erf", like=x)
    _write_gate(node, x, erf)


def _write_tanh(node: ir.Node) -> None:
    x = node.inputs[0]
    assert x is not None
    name, slope = name_of(node), math.sqrt(2.0 / math.pi)
    square = add_node(node, "Mul", [x, x], f"{name}.square", like=x)
    cubic = add_node(node, "Mul", [square, _number(node, "cubic", 0.044715 * slope)], f"{name}.bent", like=x)
    factor = add_node(node, "Add", [cubic, _number(node, "slope", slope)], f"{name}.factor", like=x)
    inner = add_node(node, "Mul", [x, factor], f"{name}.inner", like=x)
    tanh = add_node(node, "Tanh", [inner], f"{name}.tanh", like=x)
    _write_gate(node, x, tanh)


def _write_gate(node: ir.Node, x: ir.Value, curve: ir.Value) -> None:
    """x·(curve + 1)·0.5, in place of the node."""
    name = name_of(node)
    raised = add_node(node, "Add", [curve, _number(node, "one", 1.0)], f"{name}.raised", like=x)
    gated = add_node(node, "Mul", [x, raised], f"{name}.gated", like=x)
    take_over(node, add_node(node, "Mul", [gated, _number(node, "half", 0.5)], f"{name}.result", like=x))


def _number(node: ir.Node, name: str, number: float) -> ir.Value:
    """A scalar of the node's type; share_equal_nodes makes one of all equal ones."""
    import numpy as np

    x = node.inputs[0]
    assert x is not None
    return add_initializer(graph_of(node), f"{name_of(node)}.{name}", np.array(number, dtype=dtype_of(x)))
