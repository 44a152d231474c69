"""Costs of many decompositions at once, without a model for any of them.

What a member costs is a polynomial in its width and in the heads and neurons of each layer, and its peak memory the
largest of a few planes. Both are read off exactly from probes of `member_cost`, once per kind of layer, and checked on
further probes; a teacher of another form is costed one member at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from coformer_compiler.decomposer.shapes import MaybeShape, MemberShape, member_cost
from coformer_compiler.device import Device
from coformer_compiler.evaluator.memory import aggregator_mb, held_mb
from coformer_compiler.model.cost import Cost
from coformer_compiler.model.spec import AttentionSpec, MlpSpec, ResidualSpec, TransformerSpec

Array = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

PEAK = "peak_elements"
FIELDS = tuple(field.name for field in fields(Cost))
SUMS = tuple(field for field in FIELDS if field != PEAK)
"""What adds up over a model's layers."""

CHECKS = 48
"""Shapes on which a form is checked, besides those that it was read off."""


@dataclass(frozen=True)
class Candidates:
    """Shapes of many decompositions as arrays; zero where a device or a layer is left out.

    Attributes:
        embed: `(candidates, devices)`.
        heads: `(candidates, devices, layers)`.
        neurons: likewise.
    """

    embed: Counts
    heads: Counts
    neurons: Counts


@dataclass(frozen=True)
class ManyCosts:
    """Costs of every member, each `(candidates, devices)`; see `Cost`."""

    flops: Array
    params: Array
    peak_elements: Array
    tables: Array
    again: Array
    cached: Array


def candidates_of(shapes: Sequence[Sequence[MaybeShape]], layers: int) -> Candidates:
    """Arrays of decoded shapes."""
    devices = len(shapes[0]) if shapes else 0
    embed = np.zeros((len(shapes), devices), np.int64)
    heads, neurons = (np.zeros((len(shapes), devices, layers), np.int64) for _ in range(2))
    for c, members in enumerate(shapes):
        for n, shape in enumerate(members):
            if shape is not None:
                embed[c, n] = shape.embed
                kept = list(shape.heads)
                heads[c, n, kept] = list(shape.heads.values())
                neurons[c, n, kept] = list(shape.neurons.values())
    return Candidates(embed, heads, neurons)


class CostModel:
    """Costs of a teacher's members by formula."""

    def __init__(self, teacher: TransformerSpec, *, shortcuts: bool) -> None:
        """Probes every kind of layer of the teacher."""
        self.teacher, self.shortcuts = teacher, shortcuts
        self.rest: dict[int, tuple[float, ...]] = {}
        forms: dict[object, _Layer] = {}
        self.layers: list[_Layer] = []
        # Where every stage has a stream of its own, no layer stands alone.
        staged = len(teacher.embeds) > 1
        for layer in () if staged else teacher.layers:
            key = tuple(replace(block, layer=0) for block in _blocks(teacher, layer))
            if key not in forms:
                forms[key] = _probed(teacher, layer, shortcuts)
            self.layers.append(forms[key])
        self.exact = not staged and all(layer.exact for layer in forms.values())

    def costs(self, candidates: Candidates) -> ManyCosts:
        """Costs of all members; zero for devices that are left out."""
        if not self.exact:
            return self._one_by_one(candidates)
        w = candidates.embed.astype(np.float64)
        rest = np.zeros((*w.shape, len(FIELDS)))
        for width in np.unique(candidates.embed):
            if width:
                rest[candidates.embed == width] = self._rest(int(width))
        found = {field: rest[..., n] for n, field in enumerate(FIELDS)}
        for n, layer in enumerate(self.layers):
            heads, neurons = candidates.heads[..., n], candidates.neurons[..., n]
            kept = heads > 0
            terms = _terms(w, heads.astype(np.float64), neurons.astype(np.float64))
            for field, coefficients in layer.sums.items():
                found[field] += kept * (terms @ coefficients)
            planes = terms[..., :4] @ layer.planes.T
            found[PEAK] = np.maximum(found[PEAK], kept * planes.max(-1))
        return ManyCosts(**found)

    def _rest(self, width: int) -> tuple[float, ...]:
        if width not in self.rest:
            cost = member_cost(self.teacher, MemberShape(width, {}, {}), shortcuts=self.shortcuts)
            self.rest[width] = tuple(getattr(cost, field) for field in FIELDS)
        return self.rest[width]

    def _one_by_one(self, candidates: Candidates) -> ManyCosts:
        found = np.zeros((len(FIELDS), *candidates.embed.shape))
        for c, n in zip(*np.nonzero(candidates.embed), strict=True):
            heads, neurons = (
                {layer: int(k) for layer, k in enumerate(a[c, n]) if k} for a in (candidates.heads, candidates.neurons)
            )
            cost = member_cost(
                self.teacher, MemberShape(int(candidates.embed[c, n]), heads, neurons), shortcuts=self.shortcuts
            )
            found[:, c, n] = [getattr(cost, field) for field in FIELDS]
        return ManyCosts(**dict(zip(FIELDS, found, strict=True)))


def many_aggregator_mb(teacher: TransformerSpec, candidates: Candidates) -> Array:
    """Memory of the aggregator of all members that take part, `(candidates,)`; see `aggregator_mb`."""
    copies = teacher.features // teacher.embed
    widths = candidates.embed * teacher.embeds[-1] // teacher.embeds[0] * copies
    return aggregator_mb(teacher.head, widths.sum(1).astype(np.float64))


def many_memory_mb(costs: ManyCosts, devices: Sequence[Device], aggregator: Array) -> Array:
    """C6's memory of every member, `(candidates, devices)`; see `memory_mb`.

    Args:
        costs: of the members.
        devices: in their order.
        aggregator: by `many_aggregator_mb`; it counts on the devices that aggregate.
    """
    held = [getattr(costs, field) for field in FIELDS if field != "flops"]
    columns = [
        held_mb(*(each[:, n] for each in held), target=device.target, precision=device.target.precision)
        + aggregator * device.aggregates
        for n, device in enumerate(devices)
    ]
    return np.stack(columns, 1)


def many_broken(costs: ManyCosts, devices: Sequence[Device], aggregator: Array) -> dict[str, npt.NDArray[np.bool_]]:
    """Whether C5 and C6 are broken, each `(candidates, devices)`; by no device that is left out.

    `aggregator` is `many_aggregator_mb`.
    """
    most = np.array([np.inf if device.max_gflop is None else device.max_gflop * 1e9 for device in devices])
    memory = np.array([device.memory_mb for device in devices])
    takes_part = costs.params > 0
    return {
        "C5": takes_part & (costs.flops > most),
        "C6": takes_part & (many_memory_mb(costs, devices, aggregator) > memory),
    }


@dataclass(frozen=True)
class _Layer:
    """Coefficients of one kind of layer, over `_terms`, and the planes of its peak over the first four of them."""

    sums: dict[str, Array]
    planes: Array
    exact: bool


def _blocks(teacher: TransformerSpec, layer: int) -> list[ResidualSpec]:
    return [block for block in teacher.blocks if isinstance(block, ResidualSpec) and block.layer == layer]


def _terms(w: Array, heads: Array, neurons: Array) -> Array:
    return np.stack([np.ones_like(w), w, heads, neurons, w * heads, w * neurons, w * w], -1)


@functools.lru_cache(maxsize=64)
def _probed(teacher: TransformerSpec, layer: int, shortcuts: bool) -> _Layer:
    """Fit on a grid of shapes, and check on others that it is exact: costs are integers."""
    branches = {type(block.branch): block.branch for block in _blocks(teacher, layer)}
    attention, mlp = branches[AttentionSpec], branches[MlpSpec]
    assert isinstance(attention, AttentionSpec) and isinstance(mlp, MlpSpec)

    @functools.cache
    def cost(w: int, h: int, n: int) -> tuple[float, ...]:
        made = member_cost(teacher, MemberShape(w, {layer: h}, {layer: n}), shortcuts=shortcuts)
        rest = member_cost(teacher, MemberShape(w, {}, {}), shortcuts=shortcuts)
        sums = [getattr(made, field) - getattr(rest, field) for field in SUMS]
        return (*sums, made.peak_elements, rest.peak_elements)

    widths = _spaced(4, teacher.embed, 6)
    by_heads = [(w, 1, 1) for w in _spaced(2, teacher.embed, 40)]
    by_heads += [(w, h, 1) for w in widths for h in _spaced(2, attention.heads, 3)]
    by_neurons = [(w, 1, n) for w in widths for n in _spaced(1, mlp.neurons, 5)]
    random = np.random.default_rng(0)
    most = (teacher.embed + 1, attention.heads + 1, mlp.neurons + 1)
    checks = [tuple(row) for row in random.integers(1, most, (CHECKS, 3)).tolist()]
    points = np.array([*by_heads, *by_neurons, *checks], np.float64)
    found = np.array([cost(*point) for point in points.astype(int).tolist()], np.float64)
    terms, grid = _terms(*points.T), len(points) - CHECKS
    sums = {
        field: np.rint(np.linalg.lstsq(terms[:grid], found[:grid, i], rcond=None)[0]) for i, field in enumerate(SUMS)
    }
    peaks = found[:, -2]
    planes = np.array([plane for point in points[:grid] for plane in _planes_through(point, lambda *at: cost(*at)[-2])])
    # A slope that was taken over an edge between planes makes one that is above some point.
    planes = np.unique(planes[(terms[:, :4] @ planes.T <= peaks[:, None]).all(0)], axis=0)
    # A large image makes the stem the peak of narrow members; `costs` knows what is without layers from elsewhere.
    peak = np.maximum((terms[:, :4] @ planes.T).max(1, initial=0.0), found[:, -1])
    right = all((terms @ sums[field] == found[:, i]).all() for i, field in enumerate(SUMS))
    return _Layer(sums, planes, bool(right and (peak == peaks).all()))


def _spaced(low: int, high: int, count: int) -> list[int]:
    """Uneven steps, so that probes do not fall on the edges between planes."""
    low = min(low, high)
    return sorted({round(low + (high - low) * (i / (count - 1)) ** 1.37) for i in range(count)})


def _planes_through(point: Array, peak: Callable[[int, int, int], float]) -> list[list[float]]:
    """Planes that may be the peak around a point.

    Activation elements are tokens times a sum of widths, so that planes go through zero, and heads and neurons are of
    two sub-blocks, of which one has the peak: with the slope along the width a plane is known.
    """
    w, h, n = (int(k) for k in point)
    here, planes = peak(w, h, n), []
    for side in (1, -1):
        slope = side * (peak(w + side, h, n) - here)
        rest = here - slope * w
        planes += [[0.0, slope, rest / h, 0.0], [0.0, slope, 0.0, rest / n]]
    return planes
