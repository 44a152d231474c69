"""Write RMSNormalization out where the engine or the opset has none."""

from __future__ import annotations

import math

import onnx_ir as ir

from coformer_passes.rewriting import (
    add_initializer,
    add_node,
    dtype_of,
    floats_of,
    graph_of,
    is_op,
    name_of,
    normalised_axes,
    take_over,
)
from coformer_targets import Target, tensorrt_older_than


def decompose_rms_norm(model: ir.Model, target: Target) -> bool:
    """Write RMSNormalization over the last axes as a reduction, in an order that survives FP16.

    Given::

        y = RMSNormalization<axis = -1, epsilon = 1e-6>(x, gain)        n = length of the last axis

    Result::

        small = Mul(x, 1/sqrt(n))
        mean_square = ReduceSum<keepdims = 1>(Mul(small, small), axes)
        y = Mul(Div(x, Sqrt(Add(mean_square, epsilon))), gain)

    A gain of ones writes nothing. As in decompose_layer_norm the division by sqrt(n) comes before the square, so
    that a term is n times smaller.

    Why: "no importer registered for op: RMSNormalization"; it came with opset 23.
    TensorRT: up to 10.14 (importer from 10.15 on).
    Source: onnx-tensorrt docs/Changelog.md; Zhang and Sennrich 2019, equation 4.

    Raises:
        CoformerError: the width of the norm is not known.
    """
    if not needed(target):
        return False
    found = [node for node in model.graph if is_op(node, "RMSNormalization")]
    for node in found:
        _write_out(node)
    return bool(found)


def needed(target: Target) -> bool:
    """Whether the target's engine or opset lacks RMSNormalization (opset 23)."""
    return target.opset < 23 or tensorrt_older_than(target, 10, 15)


def _write_out(node: ir.Node) -> None:
    import numpy as np

    x, gain = node.inputs[0], node.inputs[1]
    assert x is not None and gain is not None
    name, graph, dtype = name_of(node), graph_of(node), dtype_of(x)
    axes, width, reduced = normalised_axes(node, x, "decompose_rms_norm")
    axes_value = add_initializer(graph, f"{name}.axes", np.array(axes, dtype=np.int64))
    root = add_initializer(graph, f"{name}.one_by_root_width", np.array(1.0 / math.sqrt(width), dtype=dtype))
    epsilon = add_initializer(
        graph, f"{name}.epsilon", np.array(node.attributes.get_float("epsilon", 1e-5), dtype=dtype)
    )
    small = add_node(node, "Mul", [x, root], f"{name}.small", like=x)
    square = add_node(node, "Mul", [small, small], f"{name}.square", like=x)
    mean = add_node(
        node,
        "ReduceSum",
        [square, axes_value],
        f"{name}.mean_square",
        like=x,
        shape=reduced,
        attributes={"keepdims": 1},
    )
    shifted = add_node(node, "Add", [mean, epsilon], f"{name}.shifted", like=mean)
    root_mean = add_node(node, "Sqrt", [shifted], f"{name}.root_mean", like=mean)
    result = add_node(node, "Div", [x, root_mean], f"{name}.normalised", like=x)
    gains = floats_of(gain)
    if gains is None or not (gains == 1.0).all():
        result = add_node(node, "Mul", [result, gain], f"{name}.scaled", like=x)
    take_over(node, result)
