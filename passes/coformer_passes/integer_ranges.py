"""Between which numbers the integers of a graph lie, as far as constants, shapes and types prove it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from math import prod
from typing import NamedTuple

import onnx_ir as ir

from coformer_passes.rewriting import array_of, static_shape

INTEGERS = {
    ir.DataType.BOOL: (0, 1),
    ir.DataType.INT8: (-(2**7), 2**7 - 1),
    ir.DataType.INT16: (-(2**15), 2**15 - 1),
    ir.DataType.INT32: (-(2**31), 2**31 - 1),
    ir.DataType.UINT8: (0, 2**8 - 1),
    ir.DataType.UINT16: (0, 2**16 - 1),
    ir.DataType.UINT32: (0, 2**32 - 1),
}


class Range(NamedTuple):
    """All numbers of a value, both ends included."""

    least: int
    greatest: int


def integer_ranges(graph: ir.Graph) -> dict[ir.Value, Range]:
    """The range of every integer value of the main graph that can be proved; others are left out.

    Interval arithmetic from constants, static shapes, positions (ArgMax, TopK, NonZero) and narrow types. An int64
    input of the graph has no range of its own: its numbers are whatever the caller gives.
    """
    found: dict[ir.Value, Range] = {}
    for node in graph:
        ranges = [_range_of(value, found) for value in node.inputs]
        rule = _RULES.get(node.op_type) if node.domain == "" else None
        result = None if rule is None else rule(node, ranges)
        if result is not None:
            for output in node.outputs:
                if output.dtype in (ir.DataType.INT64, ir.DataType.INT32):
                    found[output] = result
    return found


def _range_of(value: ir.Value | None, found: dict[ir.Value, Range]) -> Range | None:
    if value is None:
        return None
    if value in found:
        return found[value]
    array = array_of(value)
    if array is not None and array.size and array.dtype.kind in "iub":
        return Range(int(array.min()), int(array.max()))
    if value.dtype in INTEGERS:
        return Range(*INTEGERS[value.dtype])
    return None


Ranges = Sequence[Range | None]
Rule = Callable[[ir.Node, Ranges], Range | None]


def _first(node: ir.Node, ranges: Ranges) -> Range | None:
    return ranges[0]


def _union(node: ir.Node, ranges: Ranges) -> Range | None:
    known = [each for each in ranges if each is not None]
    if len(known) < len(ranges) or not known:
        return None
    return Range(min(each.least for each in known), max(each.greatest for each in known))


def _union_of_choices(node: ir.Node, ranges: Ranges) -> Range | None:
    return _union(node, ranges[1:])


def _corners(compute: Callable[[int, int], int]) -> Rule:
    """A rule of two inputs whose extremes lie at the ends of both."""

    def rule(node: ir.Node, ranges: Ranges) -> Range | None:
        left, right = ranges[0], ranges[1]
        if left is None or right is None:
            return None
        ends = [compute(a, b) for a, b in product(left, right)]
        return Range(min(ends), max(ends))

    return rule


def _quotient(node: ir.Node, ranges: Ranges) -> Range | None:
    left, right = ranges[0], ranges[1]
    if left is None or right is None or right.least <= 0:
        return None
    ends = [abs(a) // b * (1 if a >= 0 else -1) for a, b in product(left, right)]
    return Range(min(*ends, 0), max(*ends, 0))


def _remainder(node: ir.Node, ranges: Ranges) -> Range | None:
    right = ranges[1]
    return None if right is None or right.least <= 0 else Range(-right.greatest + 1, right.greatest - 1)


def _negated(node: ir.Node, ranges: Ranges) -> Range | None:
    return None if ranges[0] is None else Range(-ranges[0].greatest, -ranges[0].least)


def _magnitude(node: ir.Node, ranges: Ranges) -> Range | None:
    return None if ranges[0] is None else Range(0, max(abs(ranges[0].least), abs(ranges[0].greatest)))


def _sum(node: ir.Node, ranges: Ranges) -> Range | None:
    """Of a reduction: as many terms as the input has elements for each of the output."""
    whole = None if node.inputs[0] is None else static_shape(node.inputs[0])
    left = static_shape(node.outputs[0])
    if ranges[0] is None or whole is None or left is None:
        return None
    terms = prod(whole) // max(prod(left), 1)
    return Range(min(terms * ranges[0].least, 0), max(terms * ranges[0].greatest, 0))


def _running_sum(node: ir.Node, ranges: Ranges) -> Range | None:
    shape = static_shape(node.outputs[0])
    if ranges[0] is None or shape is None:
        return None
    terms = max(shape, default=1)
    return Range(min(terms * ranges[0].least, 0), max(terms * ranges[0].greatest, 0))


def _position(node: ir.Node, ranges: Ranges) -> Range | None:
    shape = None if node.inputs[0] is None else static_shape(node.inputs[0])
    return None if shape is None else Range(0, max(max(shape, default=1) - 1, 0))


def _size(node: ir.Node, ranges: Ranges) -> Range | None:
    shape = None if node.inputs[0] is None else static_shape(node.inputs[0])
    if shape is None:
        return None
    return Range(0, prod(shape) if node.op_type == "Size" else max(shape, default=0))


_MOVING = (
    *("Cast", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "ReduceMax", "ReduceMin"),
    *("Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
)
_RULES: dict[str, Rule] = {
    **dict.fromkeys(_MOVING, _first),
    **dict.fromkeys(("Concat", "Max", "Min"), _union),
    **dict.fromkeys(("ArgMax", "ArgMin", "NonZero", "TopK"), _position),
    **dict.fromkeys(("Shape", "Size"), _size),
    "Abs": _magnitude,
    "Add": _corners(lambda a, b: a + b),
    "CumSum": _running_sum,
    "Div": _quotient,
    "Mod": _remainder,
    "Mul": _corners(lambda a, b: a * b),
    "Neg": _negated,
    "ReduceSum": _sum,
    "Sub": _corners(lambda a, b: a - b),
    "Where": _union_of_choices,
}
