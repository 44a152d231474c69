"""Inputs that a graph of unknown origin is proved on, drawn so that they are valid wherever that can be told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from coformer_passes.rewriting import is_op, static_shape

if TYPE_CHECKING:
    from coformer_passes.numerics import Feeds

FEW = 8
"""Integers that select nothing are drawn from 0 to 7."""
CAREFUL = 2
"""Integers that may select something, nobody knows out of how many, are 0 or 1."""
BYTES = 256

MOVING = ("Expand", "Flatten", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze")
CHOOSING = ("Clip", "Max", "Min", "Where")
REDUCING = ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum")
COUNTING = ("Abs", "Add", "Div", "Mean", "Mod", "Mul", "Neg", "Pow", "Sign", "Sub", "Sum")
WITHIN = ("ArgMax", "ArgMin", "OneHot", "Shape", "Size")
"""What they make is valid whatever they read: places, sizes, ones."""


def random_inputs(model: ir.Model, *, cases: int = 2, seed: int = 0) -> list[Feeds]:
    """Inputs of the graph's shapes and types: normal floats, truth values, integers from 0 and below `integer_limits`.

    Args:
        model: static shapes.
        cases: how many feeds.
        seed: the same seed draws the same.
    """
    import numpy as np

    random, limits = np.random.default_rng(seed), integer_limits(model)
    feeds: list[Feeds] = []
    for _ in range(cases):
        case = {}
        for value in model.graph.inputs:
            shape, dtype = static_shape(value), np.dtype(np.float32) if value.dtype is None else value.dtype.numpy()
            numbers = np.asarray(random.standard_normal(shape or ()))
            if np.issubdtype(dtype, np.integer):
                numbers = np.asarray(random.integers(0, limits[str(value.name)], shape or ()))
            case[str(value.name)] = (numbers > 0 if dtype == np.bool_ else numbers).astype(dtype)
        feeds.append(case)
    return feeds


def integer_limits(model: ir.Model) -> dict[str, int]:
    """Integer input → the number that all drawn ones stay below.

    Where the numbers themselves reach indices of a Gather or a Scatter, it is the smallest axis that they select from,
    so that every row may be chosen and none is missed. Where they select nothing, it is FEW, or 256 for bytes. Where
    what is computed from them selects something, or sizes it, it is CAREFUL: a valid graph must not fail.
    """
    limits = {}
    for value in model.graph.inputs:
        if value.dtype is not None and value.dtype.is_integer():
            axes = _selected_axes(value)
            widest = BYTES if value.dtype == ir.DataType.UINT8 else FEW
            limit = CAREFUL if axes is None else min(axes, default=widest)
            limits[str(value.name)] = max(
                1, min(limit, BYTES if value.dtype == ir.DataType.UINT8 else 2 ** (value.dtype.bitwidth - 1))
            )
    return limits


def _selected_axes(value: ir.Value) -> list[int] | None:
    """The sizes of all axes that the numbers of `value` select from, None where that cannot be told."""
    axes: list[int] = []
    seen = {(value, True)}
    pending = [(value, True)]  # a value, and whether its numbers are the input's own
    while pending:
        now, own = pending.pop()
        for node, index in now.uses():
            selected = _axes_of_index(node, index)
            if selected is not None:
                if not own or not selected:
                    return None
                axes += selected
                continue
            if index == 0 and is_op(node, *WITHIN):
                continue
            integer = now.dtype is None or now.dtype.is_integer()
            if integer and not _may_read(node, index):
                return None
            kept = own and (_keeps(node, index) or _casts_to_integers(node))
            for output in node.outputs:
                known = (output, kept)
                if output.dtype != ir.DataType.BOOL and known not in seen:
                    seen.add(known)
                    pending.append(known)
    return axes


def _axes_of_index(node: ir.Node, index: int) -> list[int] | None:
    """The axes that this input of the node selects from, [] where they are not known; None where it selects nothing."""
    if index != 1 or not is_op(node, "Gather", "GatherElements", "GatherND", "ScatterElements", "ScatterND"):
        return None
    data, places = node.inputs[0], node.inputs[1]
    shape = None if data is None else static_shape(data)
    if shape is None:
        return []
    if is_op(node, "GatherND", "ScatterND"):
        tuples, first = None if places is None else static_shape(places), node.attributes.get_int("batch_dims", 0)
        return list(shape[first : first + tuples[-1]]) if tuples else []
    return [shape[node.attributes.get_int("axis", 0)]]


def _keeps(node: ir.Node, index: int) -> bool:
    """Whether the numbers of this input are found unchanged in the output."""
    if is_op(node, "Gather", "GatherElements", "GatherND", *MOVING):
        return index == 0
    return is_op(node, "Concat", *CHOOSING)


def _casts_to_integers(node: ir.Node) -> bool:
    return is_op(node, "Cast") and node.outputs[0].dtype is not None and node.outputs[0].dtype.is_integer()


def _may_read(node: ir.Node, index: int) -> bool:
    """Whether integers of any size may stand there: as numbers, not as sizes, places or counts."""
    if is_op(node, "Cast", "Concat", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", *CHOOSING, *COUNTING):
        return True
    if is_op(node, "ScatterElements", "ScatterND"):
        return index in (0, 2)
    return index == 0 and is_op(node, "CumSum", "Gather", "GatherElements", "GatherND", *MOVING, *REDUCING)
