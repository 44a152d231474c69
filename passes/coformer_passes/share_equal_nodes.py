"""Compute equal things once."""

from __future__ import annotations

import onnx_ir as ir

from coformer_targets import Target


def share_equal_nodes(model: ir.Model, target: Target) -> bool:
    """Merge equal small constants, then equal nodes, then remove what nothing reads.

    Given::

        a = Add(x, one)      b = Add(x, another_one)      y = Mul(a, b)

    Result::

        a = Add(x, one)      y = Mul(a, a)

    Why: written-out operators bring their own constants; engines do not merge them, and files grow.
    TensorRT: all versions, and ONNX Runtime.
    Source: onnx_ir's DeduplicateInitializersPass, CommonSubexpressionEliminationPass and RemoveUnusedNodesPass.
    """
    from onnx_ir.passes.common import (
        CommonSubexpressionEliminationPass,
        DeduplicateInitializersPass,
        RemoveUnusedNodesPass,
    )

    changed = False
    for each in (DeduplicateInitializersPass(), CommonSubexpressionEliminationPass(), RemoveUnusedNodesPass()):
        changed |= bool(each(model).modified)
    return changed
