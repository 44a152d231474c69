"""Reading report.json back, and whether the parts of a report agree with each other."""

from __future__ import annotations

from typing import Any

from coformer_compiler.report.kept import kept_from_policy
from coformer_compiler.report.reading import dataclass_from_json
from coformer_compiler.report.schema import FORMAT, Alternatives, Report
from coformer_runtime.errors import CoformerError

MEND = "build again with coformerc to write a fresh report"


def report_from_json(value: Any, where: str = "report.json") -> Report:
    """The inverse of `Report.to_json`.

    Raises:
        CoformerError: not a report, of another format version, or its parts disagree with each other.
    """
    if isinstance(value, dict) and value.get("format") != FORMAT:
        raise CoformerError(f"format is {value.get('format')!r}, wanted '{FORMAT}'", where, MEND)
    report = dataclass_from_json(Report, value, where, MEND)
    check_report(report, where)
    return report


def check_report(report: Report, where: str = "report") -> None:
    """Whether the parts of a report agree with each other.

    Raises:
        CoformerError: they do not; names the part.
    """
    broken = next(iter(_disagreements(report)), None)
    if broken is not None:
        raise CoformerError(broken, where, MEND)


def _disagreements(report: Report) -> list[str]:
    count = len(report.devices)
    names = [device.name for device in report.devices]
    lengths = {
        "accuracy.members": len(report.accuracy.members),
        "accuracy.members_untrained": len(report.accuracy.members_untrained),
        "cost.members": len(report.cost.members),
        "latency_ms.members": len(report.latency_ms.members),
        "predicted_ms.members": len(report.predicted_ms.members) if report.predicted_ms else count,
        "policy.members": len(report.policy.get("members", ())),
    }
    if report.accuracy.lowered is not None:
        lengths["accuracy.lowered.members"] = len(report.accuracy.lowered.members)
    lengths |= {f"profiles[{i}].members": len(each.members) for i, each in enumerate(report.profiles)}
    found = [f"'{key}' has {size} entries for {count} devices" for key, size in lengths.items() if size != count]
    for key, subsets in (
        ("subsets", report.accuracy.subsets),
        ("subsets_untrained", report.accuracy.subsets_untrained),
        ("lowered.subsets", {} if report.accuracy.lowered is None else report.accuracy.lowered.subsets),
    ):
        found += [
            f"'accuracy.{key}' names '{name}', which is no subset of {count} members"
            for name in subsets
            if not _is_subset(name, count)
        ]
    if report.search is not None:
        known = range(len(report.search.evaluations))
        numbers = (report.search.picked, *report.search.front)
        found += [f"'search' names evaluation {n} of {len(known)}" for n in numbers if n not in known]
    if report.alternatives is not None:
        found += _alternative_disagreements(report.alternatives)
    found += [f"'match[{i}].member' is {m.member}" for i, m in enumerate(report.match) if not 0 <= m.member < count]
    for i, phase in enumerate(report.history):
        if not len(phase.steps) == len(phase.loss) == len(phase.validation):
            found.append(f"'history[{i}]' has lists of unequal length")
        if phase.member is not None and not 0 <= phase.member < count:
            found.append(f"'history[{i}].member' is {phase.member}")
    try:
        kept_from_policy(report.policy)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        found.append(f"'policy' is not a policy ({type(error).__name__}: {error})")
    for i, span in enumerate(report.timeline):
        if span.device not in names:
            found.append(f"'timeline[{i}].device' is '{span.device}', which is no device of the build")
        if not 0 <= span.start_ms <= span.end_ms:
            found.append(f"'timeline[{i}]' ends before it starts, or starts before the request")
    return found


def _alternative_disagreements(told: Alternatives) -> list[str]:
    known, count = range(len(told.built)), len(told.bandwidths)
    numbers = (told.start, told.this, *(each.alternative for each in told.ranges))
    found = [f"'alternatives' names number {n} of {len(known)}" for n in numbers if n not in known]
    return found + [
        f"'alternatives.built[{n}].latency' has {len(each.latency)} entries for {count} bandwidths"
        for n, each in enumerate(told.built)
        if len(each.latency) != count
    ]


def _is_subset(name: str, count: int) -> bool:
    parts = name.split("-")
    if not all(part.isdecimal() for part in parts):
        return False
    members = [int(part) for part in parts]
    return name == "-".join(map(str, sorted(set(members)))) and members[-1] < count
