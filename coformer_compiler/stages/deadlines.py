"""Deadlines of policies that no search has chosen: what would come too late is refused before anything takes time."""

from __future__ import annotations

from collections.abc import Sequence

from coformer_compiler.config import BuildConfig
from coformer_compiler.decomposer.policy import read_policy
from coformer_compiler.decomposer.shapes import MaybeShape, shape_of_member
from coformer_compiler.decomposer.strategies import SEARCHES, shapes_by_strategy
from coformer_compiler.evaluator.latency import LatencyModel
from coformer_compiler.model.spec import TransformerSpec
from coformer_compiler.stages.decompose import network_of, policy_options
from coformer_runtime.errors import CoformerError


def require_in_time(teacher: TransformerSpec, config: BuildConfig) -> None:
    """Refuse a policy by a fixed strategy, or of a file, that breaks a deadline; searches keep to them by themselves.

    Raises:
        CoformerError: see `check_deadlines`, and what keeps the policy from being made or read.
    """
    options = policy_options(config.policy)
    if options.strategy in SEARCHES or all(device.deadline_ms is None for device in config.devices):
        return
    if options.file is None:
        shapes: Sequence[MaybeShape] = shapes_by_strategy(options, teacher, config.devices).members
    else:
        kept = {member.device: shape_of_member(member) for member in read_policy(options.file).members}
        shapes = [kept.get(device.name) for device in config.devices]
    check_deadlines(teacher, config, shapes, shortcuts=options.shortcuts)


def check_deadlines(
    teacher: TransformerSpec, config: BuildConfig, shapes: Sequence[MaybeShape], *, shortcuts: bool
) -> None:
    """Whether the features of every member, by eq. (3), are with the central device in time.

    Args:
        teacher: its spec.
        config: devices with their deadlines, and the network.
        shapes: in the order of the devices; None for one that is left out.
        shortcuts: whether members have shortcut matrices.

    Raises:
        CoformerError: naming the first device that is late, and by how much.
    """
    model = LatencyModel(teacher, config.devices, network_of(config))
    word = "estimated" if model.estimated else "predicted"
    arrivals = iter(model.of_shapes(shapes, shortcuts=shortcuts).arrival_ms)
    for device, shape in zip(config.devices, shapes, strict=True):
        arrival = 0.0 if shape is None else next(arrivals)
        if device.deadline_ms is not None and arrival > device.deadline_ms:
            raise CoformerError(
                f"its features would be at the central device after {arrival:,.4g} ms ({word}), its deadline is "
                f"{device.deadline_ms:,.4g}: late by {arrival - device.deadline_ms:,.4g} ms",
                f"device '{device.name}'",
                f"raise deadline_ms of '{device.name}' or network.mbps, give it a smaller share, or search for a "
                "policy that is in time (--strategy debo)",
            )
