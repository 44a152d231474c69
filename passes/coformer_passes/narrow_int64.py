"""Narrow 64-bit integer constants to what TensorRT computes in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from coformer_passes.integer_ranges import integer_ranges
from coformer_passes.rewriting import array_of, is_op, set_constant
from coformer_runtime.errors import CoformerError
from coformer_targets import Target, tensorrt_older_than

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LOWEST, HIGHEST = -(2**31), 2**31 - 1
NARROW_INPUTS = {"Gather": 1, "GatherElements": 1}


def narrow_int64(model: ir.Model, target: Target) -> bool:
    """Make int64 constants fit int32: indices become int32, open ends of a Slice the largest int32.

    Given::

        token = Gather(x, int64 {0})              tail = Slice(x, {1}, {9223372036854775807}, {1})

    Result::

        token = Gather(x, int32 {0})              tail = Slice(x, {1}, {2147483647}, {1})

    Shapes, axes, sizes and bounds stay int64, as ONNX wants them; the parser narrows these itself. Every constant is
    proved to fit; the bounds of a Slice that do not are clamped, which means the same on every axis that exists. What
    is computed is proved by interval arithmetic (integer_ranges); what comes from an int64 input is whatever its
    32-bit buffer holds.

    Why: TensorRT has no 64-bit integers before 9: its parser clamps them, with a warning at best, and a real 64-bit
    number becomes another one.
    TensorRT: up to 8.6.
    Source: onnx-tensorrt issues 432 and 587; docs/operators.md of 8.2.

    Raises:
        CoformerError: a constant holds a number that int32 does not, and it is no bound of a Slice; or computed values
            can leave int32, all of them named.
    """
    if not tensorrt_older_than(target, 9):
        return False
    changed = False
    for node in list(model.graph.all_nodes()):
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype == ir.DataType.INT64:
                array = array_of(value)
                if array is not None:
                    changed |= _narrow(node, index, array.astype("int64"), target)
    _prove_computed(model.graph, target)
    return changed


def _prove_computed(graph: ir.Graph, target: Target) -> None:
    wide = [
        f"'{value.name}' can be {each.least if each.least < LOWEST else each.greatest}"
        for value, each in integer_ranges(graph).items()
        if value.dtype == ir.DataType.INT64 and not (each.least >= LOWEST and each.greatest <= HIGHEST)
    ]
    if wide:
        raise CoformerError(
            f"{', '.join(wide)}; {target.name} (TensorRT {target.engine_version}) computes in 32-bit integers",
            "narrow_int64",
            "limit what they are computed from, with Clip or Mod",
        )


def _narrow(node: ir.Node, index: int, array: NDArray[np.int64], target: Target) -> bool:
    import numpy as np

    fits = bool(((array >= LOWEST) & (array <= HIGHEST)).all())
    if not fits and not (is_op(node, "Slice") and index in (1, 2)):
        value = node.inputs[index]
        worst = int(array.reshape(-1)[np.argmax(np.abs(array.astype(np.float64)))])
        raise CoformerError(
            f"'{value.name if value else ''}', read by {node.op_type}, holds {worst}; {target.name} "
            f"(TensorRT {target.engine_version}) computes in 32-bit integers",
            "narrow_int64",
            "write the graph with numbers between -2147483648 and 2147483647",
        )
    if node.domain == "" and NARROW_INPUTS.get(node.op_type) == index:
        set_constant(node, index, array.astype(np.int32))
        return True
    if not fits:
        set_constant(node, index, np.clip(array, LOWEST, HIGHEST))
        return True
    return False
