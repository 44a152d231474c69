"""`coformerc build --dry-run`: the policy's shapes, their costs, what would be built and what is cached."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coformer_compiler.artifact import NotCached, Store
from coformer_compiler.compile import plan
from coformer_compiler.config import BuildConfig
from coformer_compiler.decomposer.policy import read_policy, teacher_shape
from coformer_compiler.decomposer.shapes import MemberShape, cost_of_spec, member_cost, shape_of_member
from coformer_compiler.decomposer.strategies import shapes_by_strategy
from coformer_compiler.evaluator.memory import memory_mb
from coformer_compiler.frontends import import_model
from coformer_compiler.model.spec import TransformerSpec
from coformer_compiler.progress import SilentProgress
from coformer_compiler.stages.decompose import policy_options
from coformer_compiler.stages.import_teacher import import_teacher, load_teacher


def dry_run(config: BuildConfig, out: Path) -> dict[str, Any]:
    """JSON values; nothing is written. Costs are those of the widest kind of member that the options allow."""
    teacher = _teacher_spec(config, out)
    options = policy_options(config.policy)
    shapes: list[MemberShape]
    notes: tuple[str, ...] = ()
    if config.policy.file is not None:
        by_name = {member.device: shape_of_member(member) for member in read_policy(config.policy.file).members}
        shapes = [by_name[device.name] for device in config.devices if device.name in by_name]
    else:
        found = shapes_by_strategy(
            options.strategy, teacher, config.devices, overlap=options.overlap, shortcuts=options.shortcuts
        )
        shapes, notes = list(found.members), found.notes
    whole, full = cost_of_spec(teacher, with_head=True), teacher_shape(teacher)
    members = []
    for device, shape in zip(config.devices, shapes, strict=False):
        cost = member_cost(teacher, shape, shortcuts=options.shortcuts)
        members.append(
            {
                "device": device.name,
                "target": device.target.name,
                "central": device.central,
                "layers": len(shape.heads),
                "embed": shape.embed,
                "heads": max(shape.heads.values()),
                "neurons": max(shape.neurons.values()),
                "flops": cost.flops,
                "flops_share": cost.flops / whole.flops,
                "params": cost.params,
                "memory_mb": memory_mb(cost, device.target, device.target.precisions[0]),
                "memory_limit_mb": device.memory_mb,
            }
        )
    return {
        "teacher": {
            "layers": full.layers,
            "embed": full.embed,
            "heads": max(full.heads),
            "neurons": max(full.neurons),
            "flops": whole.flops,
            "params": whole.params,
        },
        "strategy": config.policy.strategy,
        "members": members,
        "notes": list(notes),
        "stages": {
            stage: "cached" if cached else "to build" for stage, cached in plan(config, out, SilentProgress()).items()
        },
    }


def _teacher_spec(config: BuildConfig, out: Path) -> TransformerSpec:
    try:
        return load_teacher(import_teacher(Store(out / "cache", SilentProgress(), read_only=True), config.model)).spec
    except NotCached:
        return import_model(config.model).spec
