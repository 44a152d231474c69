"""Fold the scale of the attention scores into the weights of the query."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import onnx_ir as ir

from coformer_passes.layout import LAYOUT_OPS, outputs_of_layout
from coformer_passes.linear import Linear, linear_that_makes, set_weight_and_bias
from coformer_passes.rewriting import (
    array_of,
    bypass,
    drop_unused_initializers,
    floats_of,
    is_op,
    only_consumer,
    producer_of,
    scalar_of,
    set_constant,
    static_shape,
)
from coformer_targets import Target

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LONGEST_PATH = 12


def fold_attention_scale(model: ir.Model, target: Target) -> bool:
    """Fold a multiplication by one number into the linear layer, or the norm, that its input comes from.

    Given::

        query = Transpose(Reshape(Add(MatMul(h, Wq), bq)))
        scores = MatMul(Mul(query, 0.125), keys)                or: scores = Mul(MatMul(query, keys), 0.125)

    Result::

        query = Transpose(Reshape(Add(MatMul(h, 0.125·Wq), 0.125·bq)))
        scores = MatMul(query, keys)

    Between the layer and the scale only nodes that move elements may stand. Which columns of the layer arrive is
    found by sending the column numbers through these nodes, so a fused query-key-value layer behind a Split, Slice
    or Gather has only its query columns scaled; where another reader sees one of these columns there is no match.
    A norm of the query (qk-norm) takes the scale into its gain and bias.

    Why: one pass over the queries less per layer, and scores that stay small in FP16.
    TensorRT: all versions; for the fused attention of SM 7.5 and later the scale has to come before the product.
    Source: TensorRT issue 3620; linearity.
    """
    changed = False
    for node in list(model.graph):
        if node.graph is not None and is_op(node, "Mul", "Div"):
            changed |= _fold(node)
    if changed:
        drop_unused_initializers(model.graph)
    return changed


class _Step(NamedTuple):
    node: ir.Node
    output: int


def _fold(scale_node: ir.Node) -> bool:
    source, scale = _scaled_value(scale_node)
    if source is None:
        return False
    product = producer_of(source, "MatMul")
    if product is not None and array_of(product.inputs[1]) is None and only_consumer(source) is scale_node:
        reader, source = product, product.inputs[0]
        assert source is not None
    else:
        reader = scale_node
    if not _scale_origin(source, reader, scale):
        return False
    if scale_node.inputs[0] is None or scalar_of(scale_node.inputs[0]) is not None:
        scale_node.replace_input_with(0, scale_node.inputs[1])
    bypass(scale_node)
    return True


def _scaled_value(node: ir.Node) -> tuple[ir.Value | None, float]:
    """The value that a Mul or Div by one number scales, and the factor."""
    left, right = node.inputs
    first, second = scalar_of(left), scalar_of(right)
    if second and first is None and _rank(right) <= _rank(left):
        return left, second if node.op_type == "Mul" else 1.0 / second
    if first and second is None and node.op_type == "Mul" and _rank(left) <= _rank(right):
        return right, first
    return None, 1.0


def _rank(value: ir.Value | None) -> int:
    return -1 if value is None or value.shape is None else len(value.shape)


def _scale_origin(value: ir.Value, reader: ir.Node, scale: float) -> bool:
    """Scale the layer or norm that `value` comes from, as `reader` sees it; False where that is not possible."""
    path: list[_Step] = []
    while len(path) < LONGEST_PATH:
        linear = linear_that_makes(value)
        if linear is not None:
            return _scale_linear(linear, path, reader, scale)
        node = value.producer()
        if is_op(node, "LayerNormalization"):
            assert node is not None
            return _scale_norm(node, path, reader, scale)
        if node is None or node.domain != "" or node.op_type not in LAYOUT_OPS or node.inputs[0] is None:
            return False
        index = value.index()
        assert index is not None
        path.insert(0, _Step(node, index))
        value = node.inputs[0]
    return False


def _scale_linear(linear: Linear, path: list[_Step], reader: ir.Node, scale: float) -> bool:
    import numpy as np

    shape = static_shape(linear.output)
    if shape is None:
        return False
    columns = np.broadcast_to(np.arange(linear.weight.shape[1], dtype=np.int32), shape)
    scaled = _columns_seen_only_by(columns, linear.output, path, reader)
    if scaled is None:
        return False
    factor = np.ones(linear.weight.shape[1])
    factor[scaled] = scale
    set_weight_and_bias(linear, linear.weight * factor, None if linear.bias is None else linear.bias * factor)
    return True


def _columns_seen_only_by(
    columns: NDArray[np.int32], origin: ir.Value, path: list[_Step], reader: ir.Node
) -> NDArray[np.int32] | None:
    """The columns that reach `reader` along the path, or None where anything else sees one of them."""
    import numpy as np

    others: list[NDArray[np.int32]] = []
    value = origin
    for step in path:
        for node in {use.node for use in value.uses()}:
            outputs = outputs_of_layout(node, columns) if node.op_type in LAYOUT_OPS else None
            if outputs is None:
                return None
            others += [array for index, array in enumerate(outputs) if (node, index) != (step.node, step.output)]
            if node is step.node:
                following = outputs[step.output]
        if value.is_graph_output():
            return None
        value, columns = step.node.outputs[step.output], following
    if only_consumer(value) is not reader:
        return None
    seen = np.unique(columns)
    return None if any(np.isin(seen, other).any() for other in others) else seen


def _scale_norm(norm: ir.Node, path: list[_Step], reader: ir.Node, scale: float) -> bool:
    """Scale gain and bias of a norm, where only `reader` sees its output."""
    import numpy as np

    gain = floats_of(norm.inputs[1])
    has_bias = len(norm.inputs) > 2 and norm.inputs[2] is not None
    bias = floats_of(norm.inputs[2]) if has_bias else None
    values = [norm.outputs[0], *(step.node.outputs[step.output] for step in path)]
    readers = [*(step.node for step in path), reader]
    if gain is None or (has_bias and bias is None) or any(len(step.node.outputs) > 1 for step in path):
        return False
    if any(only_consumer(value) is not node for value, node in zip(values, readers, strict=True)):
        return False
    set_constant(norm, 1, (gain * scale).astype(np.float32))
    if bias is not None:
        set_constant(norm, 2, (bias * scale).astype(np.float32))
    return True
