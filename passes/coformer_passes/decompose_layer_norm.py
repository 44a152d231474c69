"""Write LayerNormalization out where the engine has no importer for it."""

from __future__ import annotations

import math

import onnx_ir as ir

from coformer_passes.rewriting import (
    add_initializer,
    add_node,
    drop_unused_initializers,
    dtype_of,
    floats_of,
    graph_of,
    is_op,
    name_of,
    normalised_axes,
    take_over,
)
from coformer_runtime.errors import CoformerError
from coformer_targets import Target, tensorrt_older_than


def decompose_layer_norm(model: ir.Model, target: Target) -> bool:
    """Write LayerNormalization over the last axes as reductions, in an order that survives FP16.

    Given::

        y = LayerNormalization<axis = -1, epsilon = 1e-6>(x, gain, bias)        n = length of the last axis

    Result::

        mean = ReduceMean<keepdims = 1>(x, axes)
        centred = Sub(x, mean)
        small = Mul(centred, 1/sqrt(n))
        variance = ReduceSum<keepdims = 1>(Mul(small, small), axes)
        y = Add(Mul(Div(centred, Sqrt(Add(variance, epsilon))), gain), bias)

    A gain of ones and a bias of zeros write nothing. The division by sqrt(n) comes before the square: a term is
    then n times smaller, so FP16 (largest number 65504) holds an outlier of 255·sqrt(n) where the plain square
    overflows beyond 255. The square is a Mul: Pow with exponent 2 is not exact in every TensorRT tactic.

    Why: "no importer registered for op: LayerNormalization"; and FP16 engines with overflowing norms.
    TensorRT: up to 8.5 (importer from 8.6 on).
    Source: onnx-tensorrt docs/operators.md; TensorRT issues 2657 and 2875 (importer), 2564, 2781, 3692, 4111 (FP16).

    Raises:
        CoformerError: the norm has more outputs than y in use, or its width is not known.
    """
    if not needed(target):
        return False
    found = [node for node in model.graph if is_op(node, "LayerNormalization")]
    for node in found:
        _write_out(node)
    if found:
        drop_unused_initializers(model.graph)
    return bool(found)


def needed(target: Target) -> bool:
    """Whether the target's engine or opset lacks LayerNormalization (opset 17)."""
    return target.opset < 17 or tensorrt_older_than(target, 8, 6)


def _write_out(node: ir.Node) -> None:
    import numpy as np

    x, gain = node.inputs[0], node.inputs[1]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    assert x is not None
    name, graph = name_of(node), graph_of(node)
    axes, width, reduced = normalised_axes(node, x, "decompose_layer_norm")
    dtype = dtype_of(x)
    if any(output.uses() for output in node.outputs[1:]):
        raise CoformerError(
            f"node '{name}' gives its mean or deviation to other nodes", "decompose_layer_norm", "remove those outputs"
        )
    if len(node.outputs) > 1:
        node.resize_outputs(1)
    axes_value = add_initializer(graph, f"{name}.axes", np.array(axes, dtype=np.int64))
    root = add_initializer(graph, f"{name}.one_by_root_width", np.array(1.0 / math.sqrt(width), dtype=dtype))
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    epsilon_value = add_initializer(graph, f"{name}.epsilon", np.array(epsilon, dtype=dtype))

    keep = {"keepdims": 1}
    mean = add_node(node, "ReduceMean", [x, axes_value], f"{name}.mean", like=x, shape=reduced, attributes=keep)
    centred = add_node(node, "Sub", [x, mean], f"{name}.centred", like=x)
    small = add_node(node, "Mul", [centred, root], f"{name}.small", like=x)
    square = add_node(node, "Mul", [small, small], f"{name}.square", like=x)
    variance = add_node(
        node, "ReduceSum", [square, axes_value], f"{name}.variance", like=x, shape=reduced, attributes=keep
    )
    shifted = add_node(node, "Add", [variance, epsilon_value], f"{name}.shifted", like=variance)
    deviation = add_node(node, "Sqrt", [shifted], f"{name}.deviation", like=variance)
    result = add_node(node, "Div", [centred, deviation], f"{name}.normalised", like=x)
    if not _is_all(gain, 1.0):
        assert gain is not None
        result = add_node(node, "Mul", [result, gain], f"{name}.scaled", like=x)
    if bias is not None and not _is_all(bias, 0.0):
        result = add_node(node, "Add", [result, bias], f"{name}.result", like=x)
    take_over(node, result)


def _is_all(value: ir.Value | None, number: float) -> bool:
    array = floats_of(value)
    return array is not None and bool((array == number).all())
