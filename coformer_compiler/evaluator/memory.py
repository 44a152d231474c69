"""Memory that a member needs on its device: φ(C_n) of constraint C6."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from coformer_compiler.model.cost import Cost
from coformer_compiler.model.spec import HeadSpec
from coformer_runtime.decoder import SESSIONS
from coformer_targets.target import Target

BYTES = {"float32": (4, 4), "float16": (2, 2), "int8": (1, 4)}
"""Precision → bytes of a weight, bytes of an activation; with int8 only linear layers compute in integers."""
CACHED = 4
"""Bytes of a key's or value's element."""
AGGREGATED = 4
"""Bytes of an aggregator's weight: aggregators are float32 in every build."""

Numbers = TypeVar("Numbers", float, npt.NDArray[np.float64])


def memory_mb(cost: Cost, target: Target, precision: str = "float32") -> float:
    """Megabytes (10⁶ bytes) for weights, peak activations and the engine library's own constant.

    A member that takes tokens one after another holds its keys and values for every session, and for the run at hand
    those that it gives beside those that it takes.
    """
    numbers = (cost.params, cost.peak_elements, cost.tables, cost.again, cost.cached)
    return held_mb(*map(float, numbers), target=target, precision=precision)


def aggregator_mb(head: HeadSpec, features: Numbers) -> Numbers:
    """Megabytes (10⁶ bytes) that aggregating takes, on the central device and on those on standby, beside the member.

    It is the aggregator of all members, with the head folded into it, the one that the runtime opens unless told
    `--min-members`; then it opens those of smaller subsets too, each of them smaller, which a build cannot know of.

    Args:
        head: of the teacher.
        features: how many features all members together send; none, or one number for each of many policies.
    """
    if head.hidden is None:
        weights = (features + 1) * head.classes
    else:
        weights = (features + 1) * head.hidden + (head.hidden + 1) * head.classes
    return weights * AGGREGATED / 1e6


def held_mb(
    params: Numbers,
    peak_elements: Numbers,
    tables: Numbers,
    again: Numbers,
    cached: Numbers,
    *,
    target: Target,
    precision: str,
) -> Numbers:
    """`memory_mb` of one cost, or of many: see `Cost` for the numbers."""
    generates = bool(np.any(cached))
    # Graphs for single tokens are not quantised (stages/decoders.py).
    weight, activation = BYTES["float32" if generates and precision == "int8" else precision]
    weights = params + again
    if generates and target.engine != "onnxruntime":  # which maps tables, and has them once
        weights = weights + tables * (again > 0)
    kept = (SESSIONS + 1) * CACHED * cached
    return (weights * weight + peak_elements * activation + kept) / 1e6 + target.runtime_mb
