"""All artifacts of a build to one report."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coformer_compiler import __version__
from coformer_compiler.artifact import Artifact, versions
from coformer_compiler.booster.history import History
from coformer_compiler.config import BuildConfig
from coformer_compiler.data.dataset import DataSet
from coformer_compiler.decomposer.policy import Policy, policy_json
from coformer_compiler.decomposer.shapes import shape_of_member
from coformer_compiler.evaluator.latency import LatencyModel
from coformer_compiler.evaluator.memory import aggregator_mb, memory_mb
from coformer_compiler.model.spec import InputSpec
from coformer_compiler.model.system import load_system
from coformer_compiler.model.transformer import Transformer
from coformer_compiler.report import schema
from coformer_compiler.stages.boost import history_of
from coformer_compiler.stages.decompose import (
    Choice,
    network_of,
    notes_of,
    policy_of,
)
from coformer_compiler.stages.evaluate import accuracies_of
from coformer_compiler.stages.lowered_accuracy import lowered_accuracy_of
from coformer_compiler.stages.measure import Latencies, Milliseconds, latencies_of
from coformer_compiler.stages.pack import build_digest
from coformer_compiler.stages.searched import search_told, shrunk_notes
from coformer_compiler.stages.transplant import transplant_result
from coformer_compiler.transplant.walker import Match
from coformer_runtime.answer import Phases


@dataclass(frozen=True)
class Artifacts:
    """The artifacts of one build, by stage."""

    teacher: Artifact
    statistics: Artifact
    policy: Artifact
    transplanted: Artifact
    boosted: Artifact
    accuracy: Artifact
    graphs: Artifact
    bundles: Artifact
    latency: Artifact


def report_from_artifacts(
    made: Artifacts, choice: Choice, teacher: Transformer, data: DataSet, used: Sequence[Artifact]
) -> schema.Report:
    """The report of a finished build; every figure comes from an artifact."""
    config, policy = choice.members, policy_of(made.policy)
    basis, matches, losses = transplant_result(made.transplanted)
    latencies, history = latencies_of(made.latency), history_of(made.boosted)
    absent = _absences(config, latencies, history, matches)
    gave_way = [*notes_of(made.policy), *shrunk_notes(choice, made.statistics, teacher.spec)]
    return schema.Report(
        title=config.title,
        teacher=config.model.name,
        data=data.name.rpartition("/")[2],
        split="test",
        seed=config.seed,
        basis=basis,
        build=build_digest(made.graphs, policy),
        digests={"policy": policy.sha256, "teacher": made.teacher.sha256, "data": data.sha256},
        versions={"coformer": __version__, "python": platform.python_version(), **versions()},
        devices=tuple(
            schema.Device(
                d.name,
                d.target.name,
                f"{d.target.engine} {d.target.engine_version}",
                d.memory_mb,
                d.gflops,
                d.central,
                d.target.precision,
                d.max_gflop,
                d.deadline_ms,
            )
            for d in config.devices
        ),
        policy=json.loads(policy_json(policy)),
        accuracy=_accuracy(made.accuracy, made.graphs),
        cost=_cost(made, config, teacher),
        latency_ms=schema.Latency(
            _timing(latencies.teacher), _timing(latencies.aggregated), tuple(_timing(m) for m in latencies.members)
        ),
        profiles=tuple(
            schema.ProfileTiming(each.shape, tuple(_timing(member) for member in each.members))
            for each in latencies.profiles
        ),
        predicted_ms=_prediction(config, teacher, policy, basis),
        search=search_told(choice, teacher.spec),
        match=tuple(
            schema.LinearMatch(m.member, m.block, "reader" if m.linear == "reader" else "writer", m.match, m.penalty)
            for m in matches
        ),
        history=_phases(history),
        timeline=_spans(latencies.timeline, config),
        stages=tuple(schema.Stage(artifact.kind, artifact.seconds, artifact.cached) for artifact in used),
        metric=data.task.score.name,
        notes=(
            *_notes([*data.notes, *gave_way], _other_metrics(made, data), losses, basis, history),
            *_precision_notes(made, config),
        ),
        absent=absent,
    )


def _prediction(config: BuildConfig, teacher: Transformer, policy: Policy, basis: str | None) -> schema.Prediction:
    model = LatencyModel(teacher.spec, config.devices, network_of(config))
    kept = {member.device: shape_of_member(member) for member in policy.members}
    shapes = [kept.get(device.name) for device in config.devices]
    found = model.of_shapes(shapes, shortcuts=basis == "per-norm")
    times = iter(zip(found.compute_ms, found.arrival_ms, strict=True))
    members = []
    for shape, each in zip(shapes, model.compute, strict=True):
        compute, arrival = (None, None) if shape is None else next(times)
        members.append(schema.MemberPrediction(compute, arrival, each.estimated, each.basis))
    return schema.Prediction(found.total_ms, found.aggregate_ms, model.estimated, tuple(members))


def _accuracy(artifact: Artifact, graphs: Artifact) -> schema.Accuracy:
    found, lowered = accuracies_of(artifact), lowered_accuracy_of(graphs)
    return schema.Accuracy(
        found.teacher,
        found.calibrated.aggregated,
        found.calibrated.members,
        found.untrained.members,
        found.untrained.aggregated,
        found.calibrated.subsets,
        found.untrained.subsets,
        found.samples,
        None if lowered is None else schema.Lowered(lowered.members, lowered.subsets),
    )


def _cost(made: Artifacts, config: BuildConfig, teacher: Transformer) -> schema.Cost:
    system = load_system(made.boosted.path)
    whole = teacher.cost(with_head=True)
    aggregating = aggregator_mb(teacher.head.spec, float(sum(member.spec.features for member in system.members)))
    members = []
    for device, member in zip(config.devices, system.members, strict=True):
        cost, bundle = member.cost(), made.bundles.path / device.name
        built = device.target.engine == "onnxruntime"
        members.append(
            schema.MemberCost(
                device.name,
                device.target.name,
                cost.flops,
                cost.params,
                sum(path.stat().st_size for path in bundle.glob("member*")) if built else None,
                0 if device.central else 4 * member.spec.features,
                0 if device.central else _bytes_of(member.stem.spec.input),
                int((memory_mb(cost, device.target, device.target.precision) + aggregating * device.aggregates) * 1e6),
            )
        )
    aggregator = system.aggregator.cost()
    return schema.Cost(
        schema.ModelCost(whole.flops, whole.params),
        tuple(members),
        schema.ModelCost(aggregator.flops, aggregator.params),
    )


def _bytes_of(tensor: InputSpec) -> int:
    return np.dtype(tensor.dtype).itemsize * int(np.prod(tensor.shape))


def _timing(figures: Milliseconds | None) -> schema.Timing | None:
    return None if figures is None else schema.Timing(figures.median, figures.p95, figures.runs)


def _phases(history: History) -> tuple[schema.Phase, ...]:
    phases = []
    for name, points in history.curves.items():
        kind, _, number = name.partition(" ")
        phases.append(
            schema.Phase(
                kind,
                int(number) if number.isdecimal() else None,
                tuple(point.step for point in points),
                tuple(point.loss for point in points),
                tuple(point.validation_accuracy for point in points),
                kept=_kept(history, kind, number),
            )
        )
    return tuple(phases)


def _kept(history: History, kind: str, number: str) -> bool:
    if kind == "joint":
        return history.joint is None or history.joint.kept
    return not number.isdecimal() or int(number) not in history.reverted


def _spans(timeline: Phases | None, config: BuildConfig) -> tuple[schema.Span, ...]:
    """Spans of the median request. The two ways of a transfer are not told apart on the wire, so each gets half."""
    if timeline is None:
        return ()
    spans = []
    for device in config.devices:
        compute, transfer = timeline.compute_ms[device.name], timeline.transfer_ms.get(device.name, 0.0)
        arrived = 0.0 if device.central else transfer / 2
        if not device.central:
            spans.append(schema.Span(device.name, "input", 0.0, arrived))
        spans.append(schema.Span(device.name, "compute", arrived, arrived + compute))
        if device.central:
            end = timeline.gather_ms + timeline.aggregate_ms
            spans.append(schema.Span(device.name, "aggregate", timeline.gather_ms, end))
        else:
            spans.append(schema.Span(device.name, "features", arrived + compute, transfer + compute))
    return tuple(spans)


def _other_metrics(made: Artifacts, data: DataSet) -> list[str]:
    """What the figures are where they are no accuracy, and the task's other metrics."""
    named = [] if data.task.score.name == "accuracy" else [f"accuracy stands for the {data.task.score.name}"]
    others = accuracies_of(made.accuracy).others.items()
    return named + [
        f"{name} on the test split: all together {ours:.4f}, teacher {his:.4f}, members alone "
        + " / ".join(f"{each:.4f}" for each in alone)
        for name, (his, ours, *alone) in others
    ]


def _notes(
    shrunk: Sequence[str], metrics: Sequence[str], losses: dict[str, float], basis: str | None, history: History
) -> tuple[schema.Note, ...]:
    notes = [schema.Note("warning", text) for text in shrunk]
    notes += [schema.Note("note", text) for text in metrics]
    if len(losses) > 1:
        figures = ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
        notes.append(schema.Note("note", f"basis {basis} was kept by validation loss in nats: {figures}"))
    if history.joint is not None:
        kept = "kept" if history.joint.kept else "not kept"
        notes.append(schema.Note("note", f"joint phase {kept}: {history.joint.reason}"))
    return tuple(notes)


def _precision_notes(made: Artifacts, config: BuildConfig) -> tuple[schema.Note, ...]:
    """What each device that computes in less than float32 loses by it."""
    lowered, before = lowered_accuracy_of(made.graphs), accuracies_of(made.accuracy).calibrated.members
    if lowered is None:
        return ()
    return tuple(
        schema.Note(
            "note",
            f"{device.name} computes in {device.target.precision}: {100 * lowered.members[n]:.1f} % as built, "
            f"{100 * before[n]:.1f} % in float32"
            + (" (float16 by rounding every value here)" if device.target.precision == "float16" else ""),
        )
        for n, device in enumerate(config.devices)
        if device.target.precision != "float32"
    )


def _absences(config: BuildConfig, latencies: Latencies, history: History, matches: Sequence[Match]) -> dict[str, str]:
    absent = {"timeline": "the two ways of a transfer are not measured apart; each is drawn as half"}
    if not history.curves:
        absent["history"] = "the build was told to train nothing"
    if not matches:
        absent["match"] = "members by index selection are not fitted"
    for n, device in enumerate(config.devices):
        if latencies.members[n] is None:
            absent[f"latency_ms.members[{n}]"] = f"{device.target.engine} does not run on this machine"
            absent[f"cost.members[{n}].engine_bytes"] = "the engine is built on the board"
    if latencies.teacher is None:
        absent["latency_ms.teacher"] = "no member's engine runs on this machine"
    if latencies.aggregated is None:
        absent["latency_ms.aggregated"] = absent["timeline"] = "not every member's engine runs on this machine"
    return absent
