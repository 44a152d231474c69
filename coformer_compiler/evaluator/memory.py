"""Memory that a member needs on its device: φ(C_n) of constraint C6."""

from __future__ import annotations

from coformer_compiler.model.cost import Cost
from coformer_targets.target import Target

BYTES = {"float32": (4, 4), "float16": (2, 2), "int8": (1, 4)}
"""Precision → bytes of a weight, bytes of an activation; with int8 only linear layers compute in integers."""


def memory_mb(cost: Cost, target: Target, precision: str = "float32") -> float:
    """Megabytes (10⁶ bytes) for weights, peak activations and the engine library's own constant."""
    weight, activation = BYTES[precision]
    return (cost.params * weight + cost.peak_elements * activation) / 1e6 + target.runtime_mb
