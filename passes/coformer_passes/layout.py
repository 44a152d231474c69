"""Operators that only move elements, evaluated on arrays: how a pass finds where each column of a layer goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import onnx_ir as ir

from coformer_passes.rewriting import array_of, static_shape

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Number = TypeVar("Number", bound=np.generic)

LAYOUT_OPS = frozenset(
    {"Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
)


def outputs_of_layout(node: ir.Node, array: NDArray[Number]) -> list[NDArray[Number]] | None:
    """What the node makes of its first input, or None where its other inputs or shapes are not constant."""
    if node.op_type == "Identity":
        return [array]
    if node.op_type == "Transpose":
        return [array.transpose(node.attributes.get_ints("perm", range(array.ndim)[::-1]))]
    if node.op_type == "Split":
        return _split(node, array)
    if node.op_type == "Slice":
        return _slice(node, array)
    if node.op_type == "Gather":
        index = array_of(node.inputs[1])
        return None if index is None else [array.take(index.astype(int), axis=node.attributes.get_int("axis", 0))]
    shape = static_shape(node.outputs[0])
    return None if shape is None else [array.reshape(shape)]


def _split(node: ir.Node, array: NDArray[Number]) -> list[NDArray[Number]] | None:
    import numpy as np

    axis = node.attributes.get_int("axis", 0)
    shapes = [static_shape(output) for output in node.outputs]
    sizes = [shape[axis] for shape in shapes if shape is not None]
    if len(sizes) != len(shapes):
        return None
    return list(np.split(array, np.cumsum(sizes)[:-1], axis=axis))


def _slice(node: ir.Node, array: NDArray[Number]) -> list[NDArray[Number]] | None:
    bounds = [array_of(value) for value in node.inputs[1:]]
    if len(bounds) < 2 or any(bound is None for bound, value in zip(bounds, node.inputs[1:], strict=True) if value):
        return None
    starts, ends = ([int(each) for each in bound] for bound in bounds[:2] if bound is not None)
    axes = range(len(starts)) if len(bounds) < 3 or bounds[2] is None else [int(each) for each in bounds[2]]
    steps = [1] * len(starts) if len(bounds) < 4 or bounds[3] is None else [int(each) for each in bounds[3]]
    window = [slice(None)] * array.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        backwards_to_the_front = step < 0 and end < -array.shape[axis]
        window[axis] = slice(start, None if backwards_to_the_front else end, step)
    return [array[tuple(window)]]
