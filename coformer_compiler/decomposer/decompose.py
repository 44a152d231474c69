"""Devices and importance in, a policy out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from coformer_compiler.decomposer.constraints import check_policy
from coformer_compiler.decomposer.dealing import members_from_shapes
from coformer_compiler.decomposer.options import PolicyOptions
from coformer_compiler.decomposer.policy import Policy, read_policy, teacher_shape
from coformer_compiler.decomposer.shapes import MaybeShape, kept_of
from coformer_compiler.decomposer.strategies import Shapes, shapes_by_strategy
from coformer_compiler.device import Device
from coformer_compiler.model.spec import TransformerSpec
from coformer_compiler.transplant.statistics import Statistics
from coformer_runtime.errors import CoformerError

_NO_NOTES: tuple[str, ...] = ()


@dataclass(frozen=True)
class Decomposed:
    """A policy that fulfils C1 to C6, and what had to give way for it."""

    policy: Policy
    notes: tuple[str, ...]


def decompose(
    teacher: TransformerSpec,
    statistics: Statistics,
    devices: Sequence[Device],
    options: PolicyOptions,
    searched: Sequence[MaybeShape] | None = None,
) -> Decomposed:
    """The policy for these devices; `searched` are the shapes that a search has found, for its strategies.

    Raises:
        CoformerError: if no policy fulfils the constraints, or the file's one does not.
    """
    shape = teacher_shape(teacher)
    if options.strategy == "file":
        assert options.file is not None
        policy, notes = read_policy(options.file), _NO_NOTES
        order = {device.name: n for n, device in enumerate(devices)}
        members = sorted(policy.members, key=lambda member: order.get(member.device, len(order)))
        unnamed = [member.device for member in members if member.channels is None]
        if options.method == "index" and unnamed:
            raise CoformerError(
                "names no channels, which index slicing needs",
                f"policy, device '{unnamed[0]}'",
                "add \"channels\", or set policy.method = 'transplant'",
            )
        policy = Policy(policy.strategy, policy.teacher, tuple(members))
    else:
        if searched is not None:
            taking, kept = kept_of(devices, searched)
            left_out = tuple(
                f"'{d.name}' is left out: the others do better without it" for d in devices if d not in taking
            )
            shapes = Shapes(tuple(kept), left_out)
        else:
            taking = list(devices)
            shapes = shapes_by_strategy(options, teacher, devices)
        scores: dict[tuple[str, int], torch.Tensor] = {
            (block.kind, block.layer): s for block, s in zip(teacher.residuals, statistics.scores, strict=True)
        }
        channels = statistics.channel_scores if options.method == "index" else None
        names = [device.name for device in taking]
        filled = members_from_shapes(names, shapes.members, scores, channels)
        policy, notes = Policy(options.strategy, shape, filled), shapes.notes
    check_policy(policy, teacher, shape, devices, overlap=options.overlap, shortcuts=options.shortcuts)
    return Decomposed(policy, notes)
