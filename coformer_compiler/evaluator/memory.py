"""Memory that a member needs on its device: φ(C_n) of constraint C6."""

from __future__ import annotations

from coformer_compiler.model.cost import Cost
from coformer_targets.target import Target

BYTES = {"float32": 4, "float16": 2}


def memory_mb(cost: Cost, target: Target, precision: str = "float32") -> float:
    """Megabytes (10⁶ bytes) for weights, peak activations and the engine library's own constant."""
    return (cost.params + cost.peak_elements) * BYTES[precision] / 1e6 + target.runtime_mb
