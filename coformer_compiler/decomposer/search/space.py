"""What may be searched: points to shapes that fit their devices, and what these cost, many at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from coformer_compiler.decomposer.search.encoding import LAYERS, Encoding, Point, shapes_of
from coformer_compiler.decomposer.shapes import MaybeShape
from coformer_compiler.evaluator.latency import Latencies, LatencyModel, Network
from coformer_compiler.evaluator.many import (
    Candidates,
    CostModel,
    candidates_of,
    many_aggregator_mb,
    many_broken,
    many_memory_mb,
)
from coformer_compiler.model.spec import TransformerSpec
from coformer_compiler.profiling.table import ShapeTable
from coformer_runtime.errors import CoformerError

SHRINK, SMALLEST = 0.85, 0.02
TRIES = 2000
SAMPLED = 512

LIMITS = {
    "C5": ("max_gflop", "GFLOP of work per inference"),
    "C6": ("memory_mb", "MB of memory"),
    "deadline": ("deadline_ms", "ms until its features arrive"),
}
"""Constraint → the device's key that bounds it, and what is bounded in which unit."""

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
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

    def shapes(self, point: Point) -> Shapes | None:
        """Shapes of a point, shrunk onto C5, C6 and the deadlines; None where next to nothing breaks them still."""
        return self.many_shapes(point[None])[0]

    def many_shapes(self, points: Array) -> list[Shapes | None]:
        """`shapes` of many points `(points, dimensions)`."""
        found, held = self.shrunk(points)
        fits: list[bool] = np.all(held, axis=1).tolist()
        return [shapes if fit else None for shapes, fit in zip(shapes_of(found), fits, strict=True)]

    def shrunk(self, points: Array) -> tuple[Candidates, Flags]:
        """Policies of points, made smaller until they fit, and whether each member does, `(points, devices)`.

        Shares are scaled down first; where next to nothing is left of them, layers go, all but the most influential.
        The first device that does not fit gives way, as long as it can.
        """
        everyone = (len(points), len(self.devices))
        shrink, deepest = np.ones(everyone), np.full(everyone, self.encoding.shape.layers)
        found = self.encoding.decode_many(points, shrink, deepest)
        held = self.fit_by(found)
        left = np.flatnonzero(~held.all(1))
        while len(left):
            depth = np.minimum(deepest[left], (found.heads[left] > 0).sum(-1))
            narrower = shrink[left] * SHRINK >= SMALLEST
            gives = ~held[left] & (narrower | (depth > 1))
            going = gives.any(1)
            left, n = left[going], gives[going].argmax(1)
            wide = narrower[going, n]
            shrink[left[wide], n[wide]] *= SHRINK
            deepest[left[~wide], n[~wide]] = depth[going, n][~wide] - 1
            made = self.encoding.decode_many(points[left], shrink[left], deepest[left])
            for ours, theirs in ((found.embed, made.embed), (found.heads, made.heads), (found.neurons, made.neurons)):
                ours[left] = theirs
            held[left] = self.fit_by(made)
            left = left[~held[left].all(1)]
        return found, held

    def fit(self, shapes: Sequence[Shapes]) -> Flags:
        """Whether every member fits its device, `(candidates, devices)`."""
        return self.fit_by(candidates_of(shapes, self.encoding.shape.layers))

    def fit_by(self, candidates: Candidates) -> Flags:
        """`fit` of decoded points."""
        found: Flags = ~np.any(list(self.broken_by(candidates).values()), axis=0)
        return found

    def broken(self, shapes: Sequence[Shapes]) -> dict[str, Flags]:
        """Constraint → whether the members break it, `(candidates, devices)`."""
        return self.broken_by(candidates_of(shapes, self.encoding.shape.layers))

    def broken_by(self, candidates: Candidates) -> dict[str, Flags]:
        """`broken` of decoded points."""
        aggregator = many_aggregator_mb(self.teacher, candidates)
        broken = many_broken(self.model.costs(candidates), self.devices, aggregator)
        deadlines = np.array([np.inf if d.deadline_ms is None else d.deadline_ms for d in self.devices])
        if np.isfinite(deadlines).any():
            broken["deadline"] = deadlines < self.latencies_by(candidates).arrival_ms.T
        return broken

    def latencies(self, shapes: Sequence[Shapes]) -> Latencies:
        """Predicted latencies of many policies."""
        return self.latencies_by(candidates_of(shapes, self.encoding.shape.layers))

    def latencies_by(self, candidates: Candidates) -> Latencies:
        """`latencies` of decoded points."""
        embed, heads, neurons = candidates.embed, candidates.heads, candidates.neurons
        flags = np.full(len(embed), int(self.shortcuts))
        tables = [ShapeTable(embed[:, n], heads[:, n], neurons[:, n], flags) for n in range(len(self.devices))]
        return self.latency.of_tables(tables)

    def drawn(self, random: np.random.Generator) -> tuple[Point, Shapes]:
        """A uniform point that fits the devices.

        Raises:
            CoformerError: if none of many does; says what to relax and by how much.
        """
        tried = []
        for _ in range(TRIES):
            point = random.random(self.encoding.dimensions)
            shapes = self.shapes(point)
            if shapes is not None:
                return point, shapes
            tried.append(point)
        raise self._infeasible(self.shrunk(np.stack(tried))[0])

    def preflight(self, seed: int, sampled: int = SAMPLED) -> Preflight:
        """Look at random policies before any is scored.

        Raises:
            CoformerError: if none fits, with what to relax and by how much.
        """
        random = np.random.default_rng([seed, 1_000_003])
        points = random.random((sampled, self.encoding.dimensions))
        everyone = (sampled, len(self.devices))
        deepest = np.full(everyone, self.encoding.shape.layers)
        broken = self.broken_by(self.encoding.decode_many(points, np.ones(everyone), deepest))
        binding = {
            f"{constraint} of '{device.name}'": float(share)
            for constraint, found in broken.items()
            for device, share in zip(self.devices, found.mean(0), strict=True)
            if share
        }
        smallest, held = self.shrunk(points)
        shrunk = held.all(1)
        if not shrunk.any():
            raise self._infeasible(smallest)
        fits = ~np.any(list(broken.values()), axis=(0, 2))
        return Preflight(sampled, float(fits.mean()), float(shrunk.mean()), dict(sorted(binding.items())))

    def require_possible(self) -> None:
        """Refuse devices that not even the smallest member fits, each beside the central one alone.

        Nothing of it hangs on the layers' influence. Where devices may be left out, the central one has to fit.

        Raises:
            CoformerError: naming every such device and limit, with what to relax and by how much at least.
        """
        count = len(self.devices)
        central = next(n for n, device in enumerate(self.devices) if device.central)
        deepest = np.eye(count, dtype=np.int64)
        deepest[:, central] = 1
        points = np.zeros((count, self.encoding.dimensions))
        points.reshape(count, -1, count)[:, LAYERS] = 1.0
        smallest = self.encoding.decode_many(points, np.zeros((count, count)), deepest)
        over = self._over(smallest)
        named = [central] if self.encoding.drop else range(count)
        short = {(key, n): float(each[n, n]) for n in named for key, each in over.items() if each[n, n] > 0}
        if short:
            limits = self._limits()
            needed = {(key, n): limits[key][n] + value for (key, n), value in short.items()}
            raise self._short("not even the smallest member fits", short, needed)

    def _infeasible(self, smallest: Candidates) -> CoformerError:
        """The error for a space in which nothing fits.

        Of each device and constraint it tells the least shortfall over the policies, where none of them holds it, and
        the limits with which the policy that is nearest to holding everything would.

        Args:
            smallest: policies, shrunk to next to nothing; each breaks something.
        """
        over, limits, taking = self._over(smallest), self._limits(), smallest.embed > 0
        devices = range(len(self.devices))
        short = {
            (key, n): float(each[taking[:, n], n].min())
            for n in devices
            for key, each in over.items()
            if taking[:, n].any() and (each[taking[:, n], n] > 0).all()
        }
        nearest = int(np.argmin(sum((each.clip(0) / limits[key]).sum(1) for key, each in over.items())))
        broken = {(key, n): each[nearest, n] for n in devices for key, each in over.items() if each[nearest, n] > 0}
        needed = {(key, n): limits[key][n] + value for (key, n), value in broken.items()}
        # Where each limit is held by some policy, but not all of them by one, the nearest one's shortfalls are told.
        return self._short(
            f"none of {len(taking):,} random policies fits the devices, with members shrunk to next to nothing",
            short or broken,
            needed,
        )

    def _short(
        self, what: str, short: Mapping[tuple[str, int], float], needed: Mapping[tuple[str, int], float]
    ) -> CoformerError:
        """An error; `short` and `needed` by constraint and number of the device, in the limit's unit."""
        told = [
            f"{key} of '{self.devices[n].name}' by {value:,.4g} {LIMITS[key][1]}"
            + (", estimated" if key == "deadline" and self.latency.estimated else "")
            for (key, n), value in short.items()
        ]
        relax = [
            f"{LIMITS[key][0]} of '{self.devices[n].name}' to {rounded_up(value)}" for (key, n), value in needed.items()
        ]
        rate = "; a faster network relaxes deadlines too" if any(key == "deadline" for key, _ in needed) else ""
        return CoformerError(f"{what}; short are {', '.join(told)}", "search", f"raise {', '.join(relax)}{rate}")

    def _limits(self) -> dict[str, Array]:
        """Constraint → the devices' limits, infinite where there is none."""
        return {
            key: np.array([np.inf if (limit := getattr(d, name)) is None else limit for d in self.devices])
            for key, (name, _) in LIMITS.items()
        }

    def _over(self, candidates: Candidates) -> dict[str, Array]:
        """Constraint → how far each member is over its limit, in the limit's unit; negative where it holds it."""
        costs = self.model.costs(candidates)
        needed = {
            "C5": costs.flops / 1e9,
            "C6": many_memory_mb(costs, self.devices, many_aggregator_mb(self.teacher, candidates)),
            "deadline": self.latencies_by(candidates).arrival_ms.T,
        }
        takes_part, limits = candidates.embed > 0, self._limits()
        return {key: np.where(takes_part, each - limits[key], -np.inf) for key, each in needed.items()}


def rounded_up(value: float) -> str:
    """A number of four digits that is not below `value`."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 3)
    return f"{math.ceil(value / unit) * unit:.10g}"
