"""`coformerc build --dry-run`: the policy's shapes, their costs, what would be built and what is cached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from coformer_compiler.artifact import NotCached, Store
from coformer_compiler.commands.search_plan import search_plan
from coformer_compiler.compile import plan
from coformer_compiler.config import BuildConfig
from coformer_compiler.decomposer.constraints import check_policy
from coformer_compiler.decomposer.policy import read_policy, teacher_shape
from coformer_compiler.decomposer.shapes import (
    MaybeShape,
    cost_of_spec,
    feature_widths,
    kept_of,
    member_cost,
    member_spec,
    shape_of_member,
)
from coformer_compiler.decomposer.strategies import SEARCHES, shapes_by_strategy
from coformer_compiler.evaluator.latency import LatencyModel
from coformer_compiler.frontends import import_model
from coformer_compiler.model.spec import TransformerSpec
from coformer_compiler.progress import SilentProgress
from coformer_compiler.stages.deadlines import check_deadlines
from coformer_compiler.stages.decompose import network_of, policy_options
from coformer_compiler.stages.import_teacher import import_teacher, load_teacher
from coformer_compiler.stages.shape_profiles import check_profiles, check_room, memory_of_profiles


def dry_run(config: BuildConfig, out: Path) -> dict[str, Any]:
    """JSON values; nothing is written. Costs are those of the widest kind of member that the options allow.

    Of a search it tells what is looked at in place of one policy's members and latency.

    Raises:
        CoformerError: if the model cannot be imported, or no policy fits the devices.
    """
    teacher = _teacher_spec(config, out)
    check_profiles(teacher, config.profiles)
    searches = config.policy.strategy in SEARCHES
    return {
        "strategy": config.policy.strategy,
        "teacher": _teacher_json(teacher),
        **(_searched(teacher, config) if searches else _chosen(teacher, config)),
        "stages": {
            stage: "cached" if cached else "to build" for stage, cached in plan(config, out, SilentProgress()).items()
        },
    }


def _teacher_json(teacher: TransformerSpec) -> dict[str, Any]:
    whole, full = cost_of_spec(teacher, with_head=True), teacher_shape(teacher)
    return {
        "layers": full.layers,
        "embed": full.embed,
        "heads": list(full.heads),
        "neurons": list(full.neurons),
        "flops": whole.flops,
        "params": whole.params,
    }


def _searched(teacher: TransformerSpec, config: BuildConfig) -> dict[str, Any]:
    """What a search would look at; its policy is known when it is done."""
    notes = (
        ["a policy for each bandwidth is picked from what the search evaluates"] if config.network.bandwidths else []
    )
    return {"members": [], "latency": None, "latency_at": [], "notes": notes, "search": search_plan(teacher, config)}


def _chosen(teacher: TransformerSpec, config: BuildConfig) -> dict[str, Any]:
    """The policy by a fixed strategy, or of a file: members, their costs, and the latency of a request."""
    shapes, notes = _shapes(config, teacher)
    shortcuts = policy_options(config.policy).shortcuts
    whole = cost_of_spec(teacher, with_head=True)
    members = []
    kept = list(zip(*kept_of(config.devices, shapes), strict=True))
    check_deadlines(teacher, config, shapes, shortcuts=shortcuts)
    check_room(teacher, kept, config.profiles, shortcuts=shortcuts)
    features = sum(feature_widths(teacher, [shape for _, shape in kept]))
    for device, shape in kept:
        cost = member_cost(teacher, shape, shortcuts=shortcuts)
        members.append(
            {
                "device": device.name,
                "target": device.target.name,
                "central": device.central,
                "layers": len(shape.heads),
                "embed": shape.embed,
                "heads": list(shape.heads.values()),
                "neurons": list(shape.neurons.values()),
                "flops": cost.flops,
                "flops_share": cost.flops / whole.flops,
                "params": cost.params,
                "memory_mb": memory_of_profiles(
                    member_spec(teacher, shape, shortcuts=shortcuts), device, config.profiles, features=features
                ),
                "memory_limit_mb": device.memory_mb,
            }
        )
    return {
        "latency": predicted_json(
            LatencyModel(teacher, config.devices, network_of(config)), shapes, shortcuts=shortcuts
        ),
        "latency_at": [
            {"mbps": mbps, "total_ms": _total_ms(teacher, config, mbps, shapes, shortcuts=shortcuts)}
            for mbps in config.network.bandwidths
        ],
        "members": members,
        "notes": list(notes),
        "search": None,
    }


def _total_ms(
    teacher: TransformerSpec, config: BuildConfig, mbps: float, shapes: Sequence[MaybeShape], *, shortcuts: bool
) -> float:
    """Predicted latency of a request at a rate in Mbit/s."""
    network = replace(network_of(config), mbps=mbps)
    return LatencyModel(teacher, config.devices, network).of_shapes(shapes, shortcuts=shortcuts).total_ms


def predicted_json(model: LatencyModel, shapes: Sequence[MaybeShape], *, shortcuts: bool) -> dict[str, Any]:
    """Predicted latency of a request, and per device what it computes and what that rests on."""
    found = model.of_shapes(shapes, shortcuts=shortcuts)
    computes = [each for each, shape in zip(model.compute, shapes, strict=True) if shape is not None]
    return {
        "total_ms": found.total_ms,
        "aggregate_ms": found.aggregate_ms,
        "estimated": model.estimated,
        "members": [
            {"compute_ms": compute, "arrival_ms": arrival, "estimated": each.estimated, "basis": each.basis}
            for compute, arrival, each in zip(found.compute_ms, found.arrival_ms, computes, strict=True)
        ],
    }


def _shapes(config: BuildConfig, teacher: TransformerSpec) -> tuple[list[MaybeShape], tuple[str, ...]]:
    """Shapes in the order of the devices, and what had to give way."""
    options = policy_options(config.policy)
    if options.file is None:
        found = shapes_by_strategy(options, teacher, config.devices)
        return list(found.members), found.notes
    policy = read_policy(options.file)
    check_policy(
        policy,
        teacher,
        teacher_shape(teacher),
        config.devices,
        overlap=options.overlap,
        shortcuts=options.shortcuts,
    )
    by_name = {member.device: shape_of_member(member) for member in policy.members}
    left_out = [f"'{device.name}' is left out" for device in config.devices if device.name not in by_name]
    return [by_name.get(device.name) for device in config.devices], tuple(left_out)


def _teacher_spec(config: BuildConfig, out: Path) -> TransformerSpec:
    try:
        return load_teacher(import_teacher(Store(out / "cache", SilentProgress(), read_only=True), config.model)).spec
    except NotCached:
        return import_model(config.model).spec
