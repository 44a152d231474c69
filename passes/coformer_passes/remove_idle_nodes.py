"""Remove nodes that change nothing."""

from __future__ import annotations

import onnx_ir as ir

from coformer_passes.rewriting import array_of, bypass, is_op, static_shape
from coformer_targets import Target

MOVERS = ("Expand", "Flatten", "Reshape", "Slice", "Squeeze", "Tile", "Unsqueeze")


def remove_idle_nodes(model: ir.Model, target: Target) -> bool:
    """Remove Identity, Dropout, and casts, pads, slices and transpositions that leave a value as it is.

    Given::

        a = Dropout(x)      b = Pad(a, {0, 0, 0, 0})      c = Cast<to = FLOAT>(b)      y = Relu(c)

    Result::

        y = Relu(x)

    Why: each is a copy where the engine does not see it; Dropout brings a mask output and a mode of training.
    TensorRT: all versions, and ONNX Runtime.
    Source: the operators' definitions; torch.onnx.export writes Pad by nothing for the windows of a Swin transformer.
    """
    changed = False
    for node in list(model.graph):
        if node.domain == "" and _is_idle(node):
            count = sum(1 for _ in model.graph)
            bypass(node)
            changed |= sum(1 for _ in model.graph) < count
    return changed


def _is_idle(node: ir.Node) -> bool:
    if not node.inputs or node.inputs[0] is None:
        return False
    source, output = node.inputs[0], node.outputs[0]
    if any(other.uses() or other.is_graph_output() for other in node.outputs[1:]):
        return False
    if is_op(node, "Identity"):
        return True
    if is_op(node, "Dropout"):
        training = array_of(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else False
        return training is not None and not bool(training)
    if is_op(node, "Cast"):
        return source.dtype is not None and source.dtype == node.attributes["to"].as_int()
    if is_op(node, "Pad"):
        pads = array_of(node.inputs[1]) if len(node.inputs) > 1 else None
        return pads is not None and not pads.any()
    if is_op(node, "Transpose"):
        order = list(node.attributes.get_ints("perm", ()))
        return order != [] and order == sorted(order)
    if is_op(node, "Concat", "Sum", "Mean", "Max", "Min"):
        return len(node.inputs) == 1
    shape = static_shape(source)
    if not is_op(node, *MOVERS) or shape is None or shape != static_shape(output):
        return False
    if is_op(node, "Slice") and len(node.inputs) > 4:
        steps = array_of(node.inputs[4])
        return steps is not None and bool((steps.astype(int) > 0).all())
    return True
