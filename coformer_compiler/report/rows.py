"""The lines of the comparison, shared by the terminal table and the page: who answers, how well, at what cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from coformer_compiler.report.numerals import list_text
from coformer_compiler.report.schema import Report, Timing, members_of, why_absent

RowKind = Literal["teacher", "member", "subset", "all"]


@dataclass(frozen=True)
class Row:
    """One way to answer.

    Attributes:
        kind: the teacher, one member alone, some members together, or all of them.
        label: in words.
        members: the members that take part.
        untrained: accuracy as transplanted; None where not measured or without meaning.
        calibrated: accuracy after training (the teacher's own).
        flops: operations of all that take part.
        params: weights of all that take part.
        wire_bytes: features that a request brings to the central device; None for the teacher.
        timing: measured latency.
        lowered: accuracy as built; None where all engines compute in float32.
    """

    kind: RowKind
    label: str
    members: tuple[int, ...]
    untrained: float | None
    calibrated: float | None
    flops: int
    params: int
    wire_bytes: int | None
    timing: Timing | None
    lowered: float | None = None


def rows_from_report(report: Report) -> list[Row]:
    """Teacher, each member alone, the subsets from small to large, and last all members together."""
    accuracy, cost = report.accuracy, report.cost
    everybody = tuple(range(len(report.devices)))
    rows = [
        Row(
            "teacher",
            "teacher",
            (),
            None,
            accuracy.teacher,
            cost.teacher.flops,
            cost.teacher.params,
            None,
            report.latency_ms.teacher,
        )
    ]
    rows += [_member_row(report, n) for n in everybody]
    rows += [_together(report, subset) for subset in _shown_subsets(report)]
    if len(everybody) > 1:
        rows.append(_together(report, everybody))
    return rows


def subset_label(report: Report, members: Sequence[int]) -> str:
    """As in "attic + desk"; a member that answers through its own aggregator is told from the bare member."""
    names = [report.devices[n].name for n in members]
    return " + ".join(names) if len(names) > 1 else f"{names[0]} (aggregator)"


def wire_bytes(report: Report, members: Sequence[int]) -> int:
    """Bytes of features that travel when these members answer: the central device's own stay where they are."""
    return sum(report.cost.members[n].wire_bytes for n in members if not report.devices[n].central)


def absences(report: Report) -> list[str]:
    """What the comparison lacks and why, one sentence for each reason."""
    accuracy, latency, names = report.accuracy, report.latency_ms, [device.name for device in report.devices]
    wanted: list[tuple[str, str, object, str]] = [
        ("accuracy", "the teacher", accuracy.teacher, "accuracy.teacher"),
        ("accuracy", "all together", accuracy.aggregated, "accuracy.aggregated"),
        *_each("accuracy", names, accuracy.members, "accuracy.members"),
        ("accuracy before training", "all together", accuracy.aggregated_untrained, "accuracy.aggregated_untrained"),
        *_each("accuracy before training", names, accuracy.members_untrained, "accuracy.members_untrained"),
        ("latency", "the teacher", latency.teacher, "latency_ms.teacher"),
        ("latency", "a whole request", latency.aggregated, "latency_ms.aggregated"),
        *_each("latency", names, latency.members, "latency_ms.members"),
        *_each("engine size", names, [c.engine_bytes for c in report.cost.members], "cost.members", ".engine_bytes"),
    ]
    reasons: dict[str | None, dict[str, list[str]]] = {}
    for quantity, subject, value, path in wanted:
        if value is None:
            reasons.setdefault(why_absent(report, path), {}).setdefault(quantity, []).append(subject)
    return [
        f"Not measured: {'; '.join(f'{quantity} of {list_text(who)}' for quantity, who in missing.items())}"
        + (f" ({reason})." if reason else ".")
        for reason, missing in reasons.items()
    ]


def _each(
    quantity: str, names: Sequence[str], values: Sequence[object], path: str, rest: str = ""
) -> list[tuple[str, str, object, str]]:
    """One entry a device: what, of whom, the value, its JSON path."""
    return [
        (quantity, name, value, f"{path}[{n}]{rest}") for n, (name, value) in enumerate(zip(names, values, strict=True))
    ]


def _member_row(report: Report, n: int) -> Row:
    cost = report.cost.members[n]
    return Row(
        "member",
        report.devices[n].name,
        (n,),
        report.accuracy.members_untrained[n],
        report.accuracy.members[n],
        cost.flops,
        cost.params,
        wire_bytes(report, (n,)),
        report.latency_ms.members[n],
        None if report.accuracy.lowered is None else report.accuracy.lowered.members[n],
    )


def _together(report: Report, members: tuple[int, ...]) -> Row:
    """A row of several members; the aggregator's cost is known for all of them only."""
    accuracy, name = report.accuracy, "-".join(map(str, members))
    everybody = len(members) == len(report.devices)
    costs = [report.cost.members[n] for n in members]
    extra = report.cost.aggregator if everybody else None
    return Row(
        "all" if everybody else "subset",
        "all together" if everybody else subset_label(report, members),
        members,
        accuracy.aggregated_untrained if everybody else accuracy.subsets_untrained.get(name),
        accuracy.aggregated if everybody else accuracy.subsets.get(name),
        sum(c.flops for c in costs) + (extra.flops if extra else 0),
        sum(c.params for c in costs) + (extra.params if extra else 0),
        wire_bytes(report, members),
        report.latency_ms.aggregated if everybody else None,
        None if accuracy.lowered is None else accuracy.lowered.subsets.get(name),
    )


def _shown_subsets(report: Report) -> list[tuple[int, ...]]:
    """Every subset but all; a member's own only where its aggregator does not repeat the member's figure."""
    accuracy = report.accuracy
    names = sorted(
        {*accuracy.subsets, *accuracy.subsets_untrained}, key=lambda name: (name.count("-"), members_of(name))
    )
    found = []
    for name in names:
        members = members_of(name)
        alone = len(members) == 1
        if len(members) == len(report.devices) or (
            alone and accuracy.subsets.get(name) == accuracy.members[members[0]]
        ):
            continue
        found.append(members)
    return found
