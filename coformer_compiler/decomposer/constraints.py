"""Constraints C1 to C6 of problem (P1), each with an error that says by how much and what would relax it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coformer_compiler.decomposer.policy import LayerShare, MemberPolicy, Policy, TeacherShape
from coformer_compiler.decomposer.shapes import MemberShape, feature_widths, member_cost, shape_of_member, stage_widths
from coformer_compiler.device import Device
from coformer_compiler.evaluator.memory import aggregator_mb, memory_mb
from coformer_compiler.model.spec import TransformerSpec
from coformer_runtime.errors import CoformerError

TOLD_MB = 1.0
"""A refusal names the aggregator where it takes this much."""


@dataclass(frozen=True)
class Excess:
    """A limit of a device that a shape breaks: `amount` over `limit`, in `unit`."""

    constraint: str
    quantity: str
    needed: float
    limit: float
    unit: str
    relax: str

    def error(self, device: str) -> CoformerError:
        """The error for a user."""
        return CoformerError(
            f"{self.constraint}: the member needs {self.needed:,.4g} {self.unit} of {self.quantity}, the device has "
            f"{self.limit:,.4g}: short by {self.needed - self.limit:,.4g} {self.unit}",
            f"device '{device}'",
            self.relax,
        )


def excess(
    teacher: TransformerSpec, shape: MemberShape, device: Device, *, shortcuts: bool, features: int
) -> Excess | None:
    """The device limit that the shape breaks, C5 before C6; None where it fits.

    Args:
        teacher: its spec.
        shape: the member's.
        device: with the limits.
        shortcuts: whether members have shortcut matrices.
        features: how many all members together send, which is how wide the aggregator is, where the device has one.
    """
    cost = member_cost(teacher, shape, shortcuts=shortcuts)
    if device.max_gflop is not None and cost.flops / 1e9 > device.max_gflop:
        return Excess(
            "C5",
            "work per inference",
            cost.flops / 1e9,
            device.max_gflop,
            "GFLOP",
            f"raise max_gflop of '{device.name}' or give it a smaller share",
        )
    needed = memory_mb(cost, device.target, device.target.precision)
    aggregator = aggregator_mb(teacher.head, float(features)) if device.aggregates else 0.0
    needed += aggregator
    if needed > device.memory_mb:
        return Excess(
            "C6",
            f"memory ({aggregator:,.4g} MB for the aggregator)" if aggregator >= TOLD_MB else "memory",
            needed,
            device.memory_mb,
            "MB",
            f"raise memory_mb of '{device.name}' or give it a smaller share",
        )
    return None


def check_policy(
    policy: Policy,
    teacher: TransformerSpec,
    shape: TeacherShape,
    devices: Sequence[Device],
    *,
    overlap: bool,
    shortcuts: bool,
) -> None:
    """Check a finished policy against the teacher and the devices.

    Raises:
        CoformerError: naming the first constraint that does not hold, the device, by how much, and what would relax it.
    """
    if policy.teacher != shape:
        raise CoformerError(
            f"made for a teacher of {_words(policy.teacher)}, this one has {_words(shape)}",
            "policy",
            "make a policy for this teacher",
        )
    _check_devices(policy, devices)
    for member in policy.members:
        _check_member(member, shape)
    _check_sums(policy, shape, overlap=overlap)
    by_name = {device.name: device for device in devices}
    shapes = [shape_of_member(member) for member in policy.members]
    features = sum(feature_widths(teacher, shapes))
    for member, own in zip(policy.members, shapes, strict=True):
        broken = excess(teacher, own, by_name[member.device], shortcuts=shortcuts, features=features)
        if broken is not None:
            raise broken.error(member.device)


def _check_devices(policy: Policy, devices: Sequence[Device]) -> None:
    """Devices may be left out, but not the central one, and there may be no others."""
    names, members = [device.name for device in devices], [member.device for member in policy.members]
    if len(set(members)) < len(members) or not set(members) <= set(names):
        raise CoformerError(
            f"it is for the devices {', '.join(members)}; the build has {', '.join(names)}",
            "policy",
            "name devices of the build, each once",
        )
    central = next((device.name for device in devices if device.central), None)
    if central is not None and central not in members:
        raise CoformerError(
            f"it leaves out '{central}', which aggregates", "policy", "give it a member, or make another device central"
        )


def _check_member(member: MemberPolicy, shape: TeacherShape) -> None:
    where = f"policy, device '{member.device}'"
    layers = [share.layer for share in member.layers]
    if not layers or layers != sorted(set(layers)) or layers[-1] >= shape.layers or layers[0] < 0:
        raise CoformerError(
            f"C1: keeps the layers {layers} of {shape.layers}", where, "name each layer once, ascending"
        )
    for stage, own in enumerate(shape.stage_layers):
        if not set(own) & set(layers):
            raise CoformerError(
                f"C1: keeps no layer of stage {stage} (layers {own.start} to {own.stop - 1})",
                where,
                "keep at least one",
            )
    if not 2 <= member.embed <= shape.embed:
        raise CoformerError(
            f"C2: embed {member.embed} is not within 2 to {shape.embed}", where, "choose a width between"
        )
    for share in member.layers:
        for kind, units, have in (("heads", share.heads, shape.heads), ("neurons", share.neurons, shape.neurons)):
            count = have[share.layer]
            if not units or list(units) != sorted(set(units)) or units[0] < 0 or units[-1] >= count:
                raise CoformerError(
                    f"layer {share.layer} keeps {kind} {list(units)[:8]} of {count}",
                    where,
                    f"name at least one of 0 to {count - 1}, each once, ascending",
                )
        _check_cross(share, shape.cross[share.layer] if shape.cross else 0, where)
    if member.channels is not None:
        _check_channels(member.channels, stage_widths(shape.embeds, member.embed), shape, where)


def _check_cross(share: LayerShare, count: int, where: str) -> None:
    """Heads of cross-attention: as many as of the other one where the layer has it, none elsewhere."""
    units = share.cross
    if len(units) == (len(share.heads) if count else 0) and list(units) == sorted(set(units) & set(range(count))):
        return
    raise CoformerError(
        f"layer {share.layer} keeps heads of cross-attention {list(units)[:8]} of {count}",
        where,
        f"name {len(share.heads)} of 0 to {count - 1}, each once, ascending" if count else "leave them away",
    )


def _check_channels(
    channels: Sequence[tuple[int, ...]], widths: Sequence[int], shape: TeacherShape, where: str
) -> None:
    if len(channels) != len(widths):
        raise CoformerError(
            f"names the channels of {len(channels)} stages of {len(widths)}", where, "give one list per stage"
        )
    for kept, width, embed in zip(channels, widths, shape.embeds, strict=True):
        if len(kept) != width or list(kept) != sorted(set(kept) & set(range(embed))):
            raise CoformerError(
                f"names the channels {list(kept)[:8]} for embed {width}",
                where,
                f"name as many of 0 to {embed - 1}, each once, ascending",
            )


def _check_sums(policy: Policy, shape: TeacherShape, *, overlap: bool) -> None:
    if overlap:
        return
    total = sum(member.embed for member in policy.members)
    if total > shape.embed:
        raise CoformerError(
            f"C2: the widths add up to {total}, {total - shape.embed} more than {shape.embed}",
            "policy",
            "make a member narrower, or set policy.overlap = true",
        )
    for layer in range(shape.layers):
        for constraint, kind, unit_name in (
            ("C3", "heads", "head"),
            ("C3", "cross", "head of cross-attention"),
            ("C4", "neurons", "neuron"),
        ):
            owner: dict[int, str] = {}
            for member in policy.members:
                for share in member.layers:
                    for unit in getattr(share, kind) if share.layer == layer else ():
                        if unit in owner:
                            raise CoformerError(
                                f"{constraint}: layer {layer}, {unit_name} {unit} is kept by both '{owner[unit]}' and "
                                f"'{member.device}'",
                                "policy",
                                "give it to one of them, or set policy.overlap = true",
                            )
                        owner[unit] = member.device


def _words(shape: TeacherShape) -> str:
    return f"{shape.layers} layers, embed {shape.embed}, {max(shape.heads)} heads, {max(shape.neurons)} neurons"
