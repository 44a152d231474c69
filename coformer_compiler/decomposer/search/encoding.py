"""A decomposition as a point in the unit cube, and back.

The paper's 3 + 2L numbers a device are too many for a Gaussian process. Here a policy is 6 numbers a device: shares of
embed, heads and neurons by stick-breaking over N + 1 parts (the last is slack), the number of layers, and two tilts of
heads and neurons over depth. Every point decodes to shapes that fulfil C1 to C4; where members may overlap, which drops
the sums, the numbers are the shares themselves. A device with no layers is left out: one that slows the cluster more
than it helps is better not asked. The central device always takes part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coformer_compiler.decomposer.policy import TeacherShape
from coformer_compiler.decomposer.rounding import Booleans, Counts, Floats, rounded_many
from coformer_compiler.decomposer.shapes import MaybeShape, MemberShape
from coformer_compiler.decomposer.strategies import alignment_of
from coformer_compiler.device import Device
from coformer_compiler.evaluator.many import Candidates

PER_DEVICE = 6
LAYERS = 3
"""Which of them is the number of layers."""
STEEPEST = 1.5
"""Largest tilt: e^1.5, about 4.5 times the share in the last layer that there is in the first."""

Point = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Encoding:
    """How points are read.

    Attributes:
        shape: the teacher's.
        devices: in member order.
        influence: of each layer; the most influential ones are kept.
        overlap: members may keep the same units, and together be wider than the teacher.
        drop: devices may be left out.
    """

    shape: TeacherShape
    devices: tuple[Device, ...]
    influence: tuple[float, ...]
    overlap: bool
    drop: bool = True

    @property
    def dimensions(self) -> int:
        """Length of a point."""
        return PER_DEVICE * len(self.devices)

    def decode(self, point: Point, shrink: Sequence[float]) -> tuple[MaybeShape, ...]:
        """Shapes of a point; `shrink` scales each device's shares, to bring it under its own limits."""
        every = np.full((1, len(self.devices)), self.shape.layers)
        return shapes_of(self.decode_many(point[None], np.asarray([shrink]), every))[0]

    def decode_many(self, points: Floats, shrink: Floats, deepest: Counts) -> Candidates:
        """Shapes of many points, as arrays.

        Args:
            points: `(points, dimensions)`.
            shrink: `(points, devices)`, scales each device's shares.
            deepest: `(points, devices)`, most layers that each device keeps; one at least, to leave no device out.
        """
        rows = points.reshape(len(points), PER_DEVICE, len(self.devices))
        steps = np.array([alignment_of(device, self.shape) for device in self.devices])
        kept = self._kept(rows[:, LAYERS], deepest)
        embed, heads, neurons = (self._shares(rows[:, n]) * shrink for n in range(3))
        taking: Booleans = np.any(kept, axis=-1)
        total = np.array(self.shape.embed)
        widths = rounded_many(total, embed, steps, "C2", "channels", overlap=self.overlap, taking=taking)
        return Candidates(
            widths,
            self._per_layer(heads, rows[:, 4], kept, self.shape.heads, np.ones_like(steps), "C3"),
            self._per_layer(neurons, rows[:, 5], kept, self.shape.neurons, steps, "C4"),
        )

    def point_of_shares(self, shares: Sequence[float]) -> Point:
        """The point of members with these shares of everything, all layers, no tilt."""
        numbers, count = list(shares) if self.overlap else sticks_of(shares), len(shares)
        return np.asarray([*numbers * 3, *[1.0] * count, *[0.5] * 2 * count])

    def _shares(self, numbers: Floats) -> Floats:
        return numbers if self.overlap else stick_breaking(numbers)

    def _kept(self, values: Floats, deepest: Counts) -> Booleans:
        """`(points, devices, layers)`: whether each device keeps each layer."""
        layers = self.shape.layers
        least = np.array([0 if self.drop and not device.central else 1 for device in self.devices])
        count = np.minimum(least + np.rint(values * (layers - least)).astype(np.int64), deepest)
        ranking = sorted(range(layers), key=lambda layer: (-self.influence[layer], layer))
        kept: Booleans = np.argsort(ranking) < count[..., None]
        # Of every stage one layer at least; where there are several, a pair: windows, and the same ones moved.
        pair = 1 if len(self.shape.depths) == 1 else 2
        for own in self.shape.stage_layers:
            kept[..., [layer for layer in ranking if layer in own][:pair]] |= count[..., None] > 0
        return kept

    def _per_layer(
        self, shares: Floats, tilts: Floats, kept: Booleans, totals: Sequence[int], steps: Counts, constraint: str
    ) -> Counts:
        """Counts `(points, devices, layers)`; a device that skips a layer leaves its units to the others."""
        depth = np.arange(self.shape.layers) / max(self.shape.layers - 1, 1) - 0.5
        slopes = ((2 * tilts - 1) * STEEPEST)[:, None] * depth[:, None]
        taking = kept.swapaxes(1, 2)
        wanted = np.where(taking, shares[:, None] * exponential(slopes), 0.0)
        if not self.overlap:
            # One after the other, as they would be added by hand, so that numpy's own order changes no last digit.
            over = sum((wanted[..., n] for n in range(wanted.shape[-1])), np.zeros(wanted.shape[:-1]))
            wanted = wanted / np.maximum(1.0, over)[..., None]
        parts = np.minimum(wanted, 1.0)
        found = rounded_many(np.array(totals), parts, steps, constraint, "units", overlap=self.overlap, taking=taking)
        return found.swapaxes(1, 2)


def shapes_of(candidates: Candidates) -> list[tuple[MaybeShape, ...]]:
    """The inverse of `candidates_of`: the shapes of every candidate's devices."""
    embed, heads, neurons = (each.tolist() for each in (candidates.embed, candidates.heads, candidates.neurons))
    return [
        tuple(
            MemberShape(
                width,
                {layer: count for layer, count in enumerate(own_heads) if count},
                {layer: count for layer, count in enumerate(own_neurons) if count},
            )
            if width
            else None
            for width, own_heads, own_neurons in zip(*each, strict=True)
        )
        for each in zip(embed, heads, neurons, strict=True)
    ]


def exponential(values: Floats) -> Floats:
    """Powers of e, by the C library: numpy's own differs in the last digit from machine to machine."""
    return np.array([math.exp(value) for value in values.ravel().tolist()]).reshape(values.shape)


def stick_breaking(values: Sequence[float] | Floats) -> Floats:
    """N shares from N numbers in the unit interval, `(…, N)`.

    With the slack they are uniform on the simplex for uniform numbers.
    """
    sticks = np.asarray(values, np.float64)
    left, shares, count = np.ones(sticks.shape[:-1]), np.empty_like(sticks), sticks.shape[-1]
    for n in range(count):
        kept = [(1 - value) ** (1 / (count - n)) for value in sticks[..., n].ravel().tolist()]
        shares[..., n] = left * (1 - np.reshape(kept, left.shape))
        left = left - shares[..., n]
    return shares


def sticks_of(shares: Sequence[float]) -> list[float]:
    """The inverse of `stick_breaking` for shares that add up to at most one."""
    left, values, count = 1.0, [], len(shares)
    for n, share in enumerate(shares):
        part = min(share / left, 1.0) if left > 0 else 0.0
        values.append(1 - (1 - part) ** (count - n))
        left -= share
    return values
