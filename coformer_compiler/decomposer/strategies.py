"""Strategies: from the devices to the shapes of their members.

A strategy is a function in the table below. It proposes shares; `shapes_from_shares` turns shares into whole numbers
that fulfil C1 to C4, and shrinks members onto C5 and C6.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from coformer_compiler.decomposer.constraints import excess
from coformer_compiler.decomposer.policy import TeacherShape, teacher_shape
from coformer_compiler.decomposer.rounding import rounded
from coformer_compiler.decomposer.shapes import MemberShape, feature_widths
from coformer_compiler.device import Device
from coformer_compiler.model.spec import TransformerSpec

SHRINK = 0.95


@dataclass(frozen=True)
class Shapes:
    """Shapes in the order of the devices, and a line for each member that had to shrink."""

    members: tuple[MemberShape, ...]
    notes: tuple[str, ...]


def uniform_shares(devices: Sequence[Device]) -> list[float]:
    """Every device the same: 1/N, or what the weakest can carry (shrinking one shrinks all)."""
    return [1 / len(devices)] * len(devices)


def proportional_shares(devices: Sequence[Device]) -> list[float]:
    """Work in proportion to the devices' FLOPS: a member's work goes with the square of its share."""
    roots: list[float] = [device.gflops**0.5 for device in devices]
    return [root / sum(roots) for root in roots]


STRATEGIES: dict[str, Callable[[Sequence[Device]], list[float]]] = {
    "uniform": uniform_shares,
    "proportional": proportional_shares,
}

SEARCHES = ("debo", "debo-paper", "optuna-gp", "random")
"""Strategies that evaluate many policies in place of proposing one; see `decomposer.search`."""


def shapes_by_strategy(
    strategy: str, teacher: TransformerSpec, devices: Sequence[Device], *, overlap: bool, shortcuts: bool
) -> Shapes:
    """Shapes for every device.

    With `overlap` the shares are of the stream alone; of heads and neurons every device takes as many as its own limits
    let it, and is shrunk in these first.

    Raises:
        CoformerError: if even the smallest member does not fit a device; it names constraint, device and shortfall.
    """
    shape = teacher_shape(teacher)
    shares = STRATEGIES[strategy](devices)
    units = [1.0] * len(shares) if overlap else shares
    notes: list[str] = []
    while True:
        shapes = shapes_from_shares(shape, devices, shares, units, overlap=overlap)
        features = sum(feature_widths(teacher, shapes))
        broken = [
            excess(teacher, s, d, shortcuts=shortcuts, features=features) for s, d in zip(shapes, devices, strict=True)
        ]
        if not any(broken):
            return Shapes(tuple(shapes), tuple(notes))
        worst = next(n for n, found in enumerate(broken) if found)
        found = broken[worst]
        assert found is not None
        if shapes[worst] == _smallest(shape, devices[worst]):
            raise found.error(devices[worst].name)
        shrunk = range(len(devices)) if strategy == "uniform" else [worst]
        if units[worst] > shares[worst]:
            units = [max(part * SHRINK, shares[n]) if n in shrunk else part for n, part in enumerate(units)]
        else:
            shares = [share * SHRINK if n in shrunk else share for n, share in enumerate(shares)]
            units = [min(part, shares[n]) if n in shrunk else part for n, part in enumerate(units)]
        note = f"'{devices[worst].name}' was shrunk until {found.constraint} held"
        notes += [] if note in notes else [note]


def shapes_from_shares(
    shape: TeacherShape, devices: Sequence[Device], shares: Sequence[float], units: Sequence[float], *, overlap: bool
) -> list[MemberShape]:
    """Whole numbers for shares: widths rounded to the target's alignment, heads by largest remainder, sums kept.

    Args:
        shape: the teacher's.
        devices: in member order.
        shares: of the stream, for each device.
        units: of heads and neurons.
        overlap: heads and neurons have no sums to keep.

    Raises:
        CoformerError: if there are fewer heads, or aligned channels or neurons, than devices.
    """
    steps = [alignment_of(device, shape) for device in devices]
    embed = rounded(shape.embed, shares, steps, "C2", "channels", overlap=False)
    heads = [rounded(count, units, [1] * len(units), "C3", "heads", overlap=overlap) for count in shape.heads]
    neurons = [rounded(count, units, steps, "C4", "neurons", overlap=overlap) for count in shape.neurons]
    return [
        MemberShape(
            embed[n],
            {layer: heads[layer][n] for layer in range(shape.layers)},
            {layer: neurons[layer][n] for layer in range(shape.layers)},
        )
        for n in range(len(devices))
    ]


def _smallest(shape: TeacherShape, device: Device) -> MemberShape:
    step = alignment_of(device, shape)
    layers = range(shape.layers)
    return MemberShape(step, dict.fromkeys(layers, 1), dict.fromkeys(layers, step))


def alignment_of(device: Device, shape: TeacherShape) -> int:
    """The target's alignment, or less for a teacher so narrow that aligned parts would be most of it."""
    step = device.target.alignment
    while step > 4 and step * 8 > min(shape.embed, *shape.neurons):
        step //= 2
    return step
