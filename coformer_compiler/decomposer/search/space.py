"""What may be searched: points to shapes that fit their devices, and what these cost, many at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from coformer_compiler.decomposer.constraints import Excess, excess
from coformer_compiler.decomposer.search.encoding import Encoding, Point
from coformer_compiler.decomposer.shapes import MaybeShape, feature_widths
from coformer_compiler.evaluator.latency import Latencies, LatencyModel, Network
from coformer_compiler.evaluator.many import CostModel, candidates_of, many_aggregator_mb, many_broken
from coformer_compiler.model.spec import TransformerSpec
from coformer_compiler.profiling.table import table_of_shapes
from coformer_runtime.errors import CoformerError

SHRINK, SMALLEST = 0.85, 0.02
TRIES = 2000
SAMPLED = 512

Array = npt.NDArray[np.float64]
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
            held = self.fit([shapes])[0]
            if held.all():
                return shapes
            n = int(np.argmin(held))
            shrink[n] *= SHRINK
            if shrink[n] < SMALLEST:
                return self._excess(shapes, n)

    def many_shapes(self, points: Array) -> list[Shapes | Excess]:
        """`shapes` of many points `(points, dimensions)`; those that fit as they are cost one look together."""
        plain = [self.encoding.decode(point, [1.0] * len(self.devices)) for point in points]
        fits = np.all(self.fit(plain), axis=1)
        return [found if fit else self.shapes(point) for point, found, fit in zip(points, plain, fits, strict=True)]

    def fit(self, shapes: Sequence[Shapes]) -> npt.NDArray[np.bool_]:
        """Whether every member fits its device, `(candidates, devices)`."""
        found: npt.NDArray[np.bool_] = ~np.any(list(self.broken(shapes).values()), axis=0)
        return found

    def broken(self, shapes: Sequence[Shapes]) -> dict[str, npt.NDArray[np.bool_]]:
        """Constraint → whether the members break it, `(candidates, devices)`."""
        candidates = candidates_of(shapes, self.encoding.shape.layers)
        broken = many_broken(self.model.costs(candidates), self.devices, many_aggregator_mb(self.teacher, candidates))
        deadlines = np.array([np.inf if d.deadline_ms is None else d.deadline_ms for d in self.devices])
        if np.isfinite(deadlines).any():
            broken["deadline"] = deadlines < self.latencies(shapes).arrival_ms.T
        return broken

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
        broken = self.broken(shapes)
        fits = ~np.any(list(broken.values()), axis=(0, 2))
        binding = {
            f"{constraint} of '{device.name}'": float(share)
            for constraint, found in broken.items()
            for device, share in zip(self.devices, found.mean(0), strict=True)
            if share
        }
        shrunk = int(fits.sum())
        worst: Excess | None = None
        for point in points[~fits]:
            made = self.shapes(point)
            if isinstance(made, Excess):
                worst = made
            else:
                shrunk += 1
        if not shrunk and worst is not None:
            raise self.infeasible(sampled, worst)
        return Preflight(sampled, float(fits.mean()), shrunk / sampled, dict(sorted(binding.items())))

    def _excess(self, shapes: Shapes, n: int) -> Excess:
        """The limit of the device that the shapes break."""
        shape, device = shapes[n], self.devices[n]
        features = sum(feature_widths(self.teacher, [each for each in shapes if each is not None]))
        found = (
            None if shape is None else excess(self.teacher, shape, device, shortcuts=self.shortcuts, features=features)
        )
        if found is not None:
            return found
        assert device.deadline_ms is not None
        arrival = float(self.latencies([shapes]).arrival_ms[n, 0])
        relax = f"raise deadline_ms of '{device.name}', or the network's rate"
        return Excess("deadline", "time until its features arrive", arrival, device.deadline_ms, "ms", relax)
