"""Strategies: from the devices to the shapes of their members.

A strategy is a function in the table below. It proposes shares; `shapes_from_shares` turns shares into whole numbers
that fulfil C1 to C4, and shrinks members onto C5 and C6.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from coformer_compiler.decomposer.constraints import excess
from coformer_compiler.decomposer.options import PolicyOptions
from coformer_compiler.decomposer.policy import TeacherShape, teacher_shape
from coformer_compiler.decomposer.rounding import rounded
from coformer_compiler.decomposer.shapes import MemberShape, feature_widths
from coformer_compiler.device import Device
from coformer_compiler.model.spec import TransformerSpec
from coformer_runtime.errors import CoformerError

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


def shapes_by_strategy(options: PolicyOptions, teacher: TransformerSpec, devices: Sequence[Device]) -> Shapes:
    """Shapes for every device.

    With `overlap` the shares are of the stream alone; of heads and neurons every device takes as many as its own limits
    let it, and is shrunk in these first. Where `embed` is given, the stream is that wide and nothing shrinks it.

    Args:
        options: strategy, overlap, embed and layers; whether there are shortcuts.
        teacher: its spec.
        devices: in member order.

    Raises:
        CoformerError: if even the smallest member does not fit a device; it names constraint, device and shortfall. If
            `embed` or `layers` cannot be.
    """
    shape, strategy = teacher_shape(teacher), options.strategy
    _check_asked(options, shape, devices)
    shares = STRATEGIES[strategy](devices)
    units = [1.0] * len(shares) if options.overlap else shares
    smallest = [_asked(_smallest(shape, device), options) for device in devices]
    notes: list[str] = []
    while True:
        dealt = shapes_from_shares(shape, devices, shares, units, overlap=options.overlap)
        shapes = [_asked(each, options) for each in dealt]
        features = sum(feature_widths(teacher, shapes))
        broken = [
            excess(teacher, s, d, shortcuts=options.shortcuts, features=features)
            for s, d in zip(shapes, devices, strict=True)
        ]
        if not any(broken):
            return Shapes(tuple(shapes), tuple(notes))
        worst = next(n for n, found in enumerate(broken) if found)
        found = broken[worst]
        assert found is not None
        if shapes[worst] == smallest[worst]:
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


def _asked(shape: MemberShape, options: PolicyOptions) -> MemberShape:
    """The shape with the width and the layers that were asked for."""
    layers = shape.heads if options.layers is None else options.layers
    return MemberShape(
        options.embed or shape.embed,
        {layer: shape.heads[layer] for layer in layers},
        {layer: shape.neurons[layer] for layer in layers},
    )


def _check_asked(options: PolicyOptions, shape: TeacherShape, devices: Sequence[Device]) -> None:
    embed, layers = options.embed, options.layers
    if layers is not None:
        if list(layers) != sorted(set(layers) & set(range(shape.layers))):
            last = shape.layers - 1
            raise _refused("C1", "layers", list(layers), f"name layers of 0 to {last}, each once, ascending")
        for stage, own in enumerate(shape.stage_layers):
            if not set(own) & set(layers):
                mend = f"keep at least one layer of stage {stage}, {own.start} to {own.stop - 1}"
                raise _refused("C1", "layers", list(layers), mend)
    if embed is None:
        return
    if not 2 <= embed <= shape.embed:
        raise _refused("C2", "embed", embed, f"choose a width from 2 to {shape.embed}")
    if not options.overlap and embed * len(devices) > shape.embed:
        mend = f"choose {shape.embed // len(devices)} or less, or set policy.overlap = true"
        raise _refused("C2", "embed", embed, mend, f" for {len(devices)} devices adds up to more than {shape.embed}")
    for device in devices:
        step = alignment_of(device, shape)
        if embed % step:
            why = f" is no multiple of {step}, which '{device.name}' computes in"
            raise _refused("C2", "embed", embed, f"choose a multiple of {step}", why)


def _refused(constraint: str, name: str, value: object, mend: str, why: str = " cannot be") -> CoformerError:
    return CoformerError(f"{constraint}: {name} = {value}{why}", f"policy.{name}", mend)


def alignment_of(device: Device, shape: TeacherShape) -> int:
    """The target's alignment, or less for a teacher so narrow that aligned parts would be most of it."""
    step = device.target.alignment
    while step > 4 and step * 8 > min(shape.embed, *shape.neurons):
        step //= 2
    return step
