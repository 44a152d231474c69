"""What may be searched: points to shapes that fit their devices, and what these cost, many at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from coformer_compiler.decomposer.constraints import Excess, excess
from coformer_compiler.decomposer.search.encoding import Encoding, Point
from coformer_compiler.decomposer.shapes import MaybeShape
from coformer_compiler.evaluator.latency import Latencies, LatencyModel, Network
from coformer_compiler.evaluator.many import CostModel, candidates_of, many_fit
from coformer_compiler.model.spec import TransformerSpec
from coformer_compiler.profiling.table import table_of_shapes
from coformer_runtime.errors import CoformerError

SHRINK, SMALLEST = 0.85, 0.02
TRIES = 2000
SAMPLED = 512

Shapes: TypeAlias = tuple[MaybeShape, ...]


@dataclass(frozen=True)
class Preflight:
    """How much of the space fits the devices.

    Attributes:
        sampled: random policies that were looked at.
        fits: share of them that fulfils C5, C6 and the deadlines as drawn.
        fits_shrunk: share that does after members were made smaller.
        binding: constraint and device → share of the policies that break it as drawn.
    """

    sampled: int
    fits: float
    fits_shrunk: float
    binding: dict[str, float]


class Space:
    """The points of an encoding that fit the devices, and what they cost."""

    def __init__(self, encoding: Encoding, teacher: TransformerSpec, network: Network, *, shortcuts: bool) -> None:
        """`shortcuts`: whether members have shortcut matrices."""
        self.encoding, self.teacher, self.network, self.shortcuts = encoding, teacher, network, shortcuts
        self.devices, self.model = encoding.devices, CostModel(teacher, shortcuts=shortcuts)
        self.latency = LatencyModel(teacher, self.devices, network)

    def shapes(self, point: Point) -> Shapes | Excess:
        """Shapes of a point, shrunk onto C5, C6 and the deadlines; the limit that breaks with next to nothing left."""
        shrink = [1.0] * len(self.devices)
        while True:
            shapes = self.encoding.decode(point, shrink)
            if self.fit([shapes])[0].all():
                return shapes
            n, found = self._first_excess(shapes)
            shrink[n] *= SHRINK
            if shrink[n] < SMALLEST:
                return found

    def fit(self, shapes: Sequence[Shapes]) -> npt.NDArray[np.bool_]:
        """Whether every member fits its device, `(candidates, devices)`."""
        candidates = candidates_of(shapes, self.encoding.shape.layers)
        held = many_fit(self.model.costs(candidates), self.devices)
        deadlines = np.array([np.inf if d.deadline_ms is None else d.deadline_ms for d in self.devices])
        if np.isfinite(deadlines).any():
            held &= deadlines >= self.latencies(shapes).arrival_ms.T
        return held

    def latencies(self, shapes: Sequence[Shapes]) -> Latencies:
        """Predicted latencies of many policies."""
        layers = self.encoding.shape.layers
        members = zip(*shapes, strict=True)
        return self.latency.of_tables([table_of_shapes(each, layers, shortcuts=self.shortcuts) for each in members])

    def drawn(self, random: np.random.Generator) -> tuple[Point, Shapes]:
        """A uniform point that fits the devices.

        Raises:
            CoformerError: if none of many does; names the constraint that the last one broke, and by how much.
        """
        for _ in range(TRIES):
            point = random.random(self.encoding.dimensions)
            shapes = self.shapes(point)
            if not isinstance(shapes, Excess):
                return point, shapes
            broken = shapes
        raise self.infeasible(TRIES, broken)

    def infeasible(self, tried: int, broken: Excess) -> CoformerError:
        """The error for a space in which nothing fits."""
        return CoformerError(
            f"none of {tried:,} random policies fits the devices, with members shrunk to next to nothing; "
            f"{broken.constraint} is short by {broken.needed - broken.limit:,.4g} {broken.unit} of {broken.quantity}",
            "search",
            broken.relax,
        )

    def preflight(self, seed: int, sampled: int = SAMPLED) -> Preflight:
        """Look at random policies before any is scored.

        Raises:
            CoformerError: if none fits, with what to relax and by how much.
        """
        random = np.random.default_rng([seed, 1_000_003])
        points = random.random((sampled, self.encoding.dimensions))
        shapes = [self.encoding.decode(point, [1.0] * len(self.devices)) for point in points]
        fits = self.fit(shapes).all(1)
        binding: dict[str, float] = {}
        shrunk = int(fits.sum())
        worst: Excess | None = None
        for n in np.flatnonzero(~fits):
            device, found = self._first_excess(shapes[n])
            key = f"{found.constraint} of '{self.devices[device].name}'"
            binding[key] = binding.get(key, 0.0) + 1 / sampled
            made = self.shapes(points[n])
            if isinstance(made, Excess):
                worst = made
            else:
                shrunk += 1
        if not shrunk and worst is not None:
            raise self.infeasible(sampled, worst)
        return Preflight(sampled, float(fits.mean()), shrunk / sampled, dict(sorted(binding.items())))

    def _first_excess(self, shapes: Shapes) -> tuple[int, Excess]:
        for n, (shape, device) in enumerate(zip(shapes, self.devices, strict=True)):
            found = None if shape is None else excess(self.teacher, shape, device, shortcuts=self.shortcuts)
            if found is not None:
                return n, found
        arrivals = self.latencies([shapes]).arrival_ms[:, 0]
        late = [
            (float(arrival) / device.deadline_ms, n)
            for n, (arrival, device) in enumerate(zip(arrivals, self.devices, strict=True))
            if device.deadline_ms is not None
        ]
        n = max(late)[1]
        device = self.devices[n]
        assert device.deadline_ms is not None
        relax = f"raise deadline_ms of '{device.name}', or the network's rate"
        return n, Excess(
            "deadline", "time until its features arrive", float(arrivals[n]), device.deadline_ms, "ms", relax
        )
