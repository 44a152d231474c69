"""A decomposition as a point in the unit cube, and back.

The paper's 3 + 2L numbers a device are too many for a Gaussian process. Here a policy is 6 numbers a device: shares of
embed, heads and neurons by stick-breaking over N + 1 parts (the last is slack), the number of layers, and two tilts of
heads and neurons over depth. Every point decodes to shapes that fulfil C1 to C4. A device with no layers is left out:
one that slows the cluster more than it helps is better not asked. The central device always takes part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coformer_compiler.decomposer.policy import TeacherShape
from coformer_compiler.decomposer.shapes import MaybeShape, MemberShape
from coformer_compiler.decomposer.strategies import alignment_of, rounded
from coformer_compiler.device import Device

PER_DEVICE = 6
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
        overlap: members may keep the same units.
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
        rows = point.reshape(PER_DEVICE, len(self.devices))
        steps = [alignment_of(device, self.shape) for device in self.devices]
        layers = [self._kept(value, device) for value, device in zip(rows[3], self.devices, strict=True)]
        embed, heads, neurons = (
            [share * factor for share, factor in zip(stick_breaking(row), shrink, strict=True)] for row in rows[:3]
        )
        taking = [n for n, kept in enumerate(layers) if kept]
        found = rounded(
            self.shape.embed, [embed[n] for n in taking], [steps[n] for n in taking], "C2", "channels", overlap=False
        )
        widths = dict(zip(taking, found, strict=True))
        head_counts = self._per_layer(heads, rows[4], layers, self.shape.heads, [1] * len(steps), "C3")
        neuron_counts = self._per_layer(neurons, rows[5], layers, self.shape.neurons, steps, "C4")
        return tuple(
            MemberShape(widths[n], head_counts[n], neuron_counts[n]) if n in widths else None
            for n in range(len(layers))
        )

    def point_of_shares(self, shares: Sequence[float]) -> Point:
        """The point of members with these shares of everything, all layers, no tilt."""
        sticks, count = sticks_of(shares), len(shares)
        return np.asarray([*sticks * 3, *[1.0] * count, *[0.5] * 2 * count])

    def _kept(self, value: float, device: Device) -> list[int]:
        least = 0 if self.drop and not device.central else 1
        count = least + round(float(value) * (self.shape.layers - least))
        if not count:
            return []
        ranking = sorted(range(self.shape.layers), key=lambda layer: (-self.influence[layer], layer))
        kept = set(ranking[:count])
        # Of every stage one layer at least; where there are several, a pair: windows, and the same ones moved.
        pair = 1 if len(self.shape.depths) == 1 else 2
        for own in self.shape.stage_layers:
            kept |= set([layer for layer in ranking if layer in own][:pair])
        return sorted(kept)

    def _per_layer(
        self,
        shares: Sequence[float],
        tilts: Point,
        layers: Sequence[Sequence[int]],
        totals: Sequence[int],
        steps: Sequence[int],
        constraint: str,
    ) -> list[dict[int, int]]:
        """Counts per device and kept layer; a device that skips a layer leaves its units to the others."""
        counts: list[dict[int, int]] = [{} for _ in shares]
        for layer, total in enumerate(totals):
            keeping = [n for n in range(len(shares)) if layer in layers[n]]
            if not keeping:
                continue
            depth = layer / max(self.shape.layers - 1, 1) - 0.5
            wanted = [shares[n] * math.exp((2 * float(tilts[n]) - 1) * STEEPEST * depth) for n in keeping]
            over = 1.0 if self.overlap else max(1.0, sum(wanted))
            parts = [min(each / over, 1.0) for each in wanted]
            found = rounded(total, parts, [steps[n] for n in keeping], constraint, "units", overlap=self.overlap)
            for n, count in zip(keeping, found, strict=True):
                counts[n][layer] = count
        return counts


def stick_breaking(values: Sequence[float] | Point) -> list[float]:
    """N shares from N numbers in the unit interval.

    With the slack they are uniform on the simplex for uniform numbers.
    """
    left, shares, count = 1.0, [], len(values)
    for n, value in enumerate(values):
        share = left * (1 - (1 - float(value)) ** (1 / (count - n)))
        shares.append(share)
        left -= share
    return shares


def sticks_of(shares: Sequence[float]) -> list[float]:
    """The inverse of `stick_breaking` for shares that add up to at most one."""
    left, values, count = 1.0, [], len(shares)
    for n, share in enumerate(shares):
        part = min(share / left, 1.0) if left > 0 else 0.0
        values.append(1 - (1 - part) ** (count - n))
        left -= share
    return values
