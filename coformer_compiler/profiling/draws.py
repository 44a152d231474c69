"""Random member shapes that cover the whole range of policies."""

from __future__ import annotations

import math

import numpy as np

from coformer_compiler.decomposer.policy import TeacherShape
from coformer_compiler.decomposer.shapes import MemberShape, full_shape

AXES = 7
STEEPEST = 1.5
"""Largest tilt over depth, as in the search's encoding."""


def drawn_shapes(shape: TeacherShape, step: int, count: int, seed: int) -> list[tuple[MemberShape, bool]]:
    """Shapes and whether they have shortcut matrices; the largest and the smallest member come first.

    The others are a Latin hypercube over embed width, depth, heads, neurons, the tilts of the latter two over
    depth, and shortcuts: each axis alone is covered evenly, whatever the count.

    Args:
        shape: the teacher's.
        step: widths are multiples of it.
        count: how many, at least 2.
        seed: of the draw.
    """
    random = np.random.default_rng(seed)
    layers = range(shape.layers)
    smallest = MemberShape(step, {0: 1}, {0: step})
    found = [(full_shape(shape), True), (smallest, False)]
    cube = np.stack([(random.permutation(count) + random.random(count)) / count for _ in range(AXES)], axis=1)
    for width, depth, heads, neurons, head_tilt, neuron_tilt, shortcut in cube[: count - 2]:
        kept = sorted(random.permutation(shape.layers)[: 1 + int(depth * shape.layers)].tolist())
        found.append(
            (
                MemberShape(
                    _multiple(width * shape.embed, step, shape.embed),
                    {
                        k: _multiple(heads * _tilt(head_tilt, k, layers) * shape.heads[k], 1, shape.heads[k])
                        for k in kept
                    },
                    {
                        k: _multiple(neurons * _tilt(neuron_tilt, k, layers) * shape.neurons[k], step, shape.neurons[k])
                        for k in kept
                    },
                ),
                bool(shortcut > 0.5),
            )
        )
    return found[:count]


def _tilt(value: float, layer: int, layers: range) -> float:
    depth = layer / max(len(layers) - 1, 1) - 0.5
    return math.exp((2 * value - 1) * STEEPEST * depth)


def _multiple(exact: float, step: int, most: int) -> int:
    return int(min(max(round(exact / step), 1) * step, most // step * step))
