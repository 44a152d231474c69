"""Training curves: per kind of phase, the loss on the left and the validation accuracy on the right."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from coformer_compiler.report.blocks import colour, not_measured, section
from coformer_compiler.report.charts import Line, line_chart
from coformer_compiler.report.markup import Markup, element
from coformer_compiler.report.numerals import THIN_SPACE, percent_text
from coformer_compiler.report.schema import Phase, Report

TITLES = {
    "member": "Each member alone, distilled from the teacher",
    "aggregator": "Aggregator, members frozen",
    "joint": "All together, with members dropped at random",
}


def training_html(report: Report) -> Markup:
    """The section."""
    phases = [phase for phase in report.history if phase.steps]
    if not phases:
        return section("Training", "", element("p", not_measured(report, "history")))
    names = list(dict.fromkeys(phase.name for phase in phases))
    groups = [_group(report, name, [phase for phase in phases if phase.name == name]) for name in names]
    dropped = [phase.name for phase in phases if not phase.kept]
    lead = "Dashed: tried, but its weights did not go into the build." if dropped else ""
    return section("Training", lead, *groups)


def _group(report: Report, name: str, phases: Sequence[Phase]) -> Markup:
    title = TITLES.get(name, name.capitalize())
    loss = [
        _line(report, phase, list(zip(map(float, phase.steps), phase.loss, strict=True)), False) for phase in phases
    ]
    log = all(y > 0 for line in loss for _, y in line.points)
    checked = [_line(report, phase, _validated(phase), True) for phase in phases]
    checked = [line for line in checked if line.points]
    charts = [_chart(title, "Training loss, log scale" if log else "Training loss", loss, _loss, log)]
    if checked:
        charts.append(_chart(title, f"Validation accuracy,{THIN_SPACE}%", checked, percent_text, False))
    else:
        charts.append(element("p", not_measured(report, "history.validation")))
    heading = element("h3", title + ("" if all(phase.kept for phase in phases) else " (not kept)"))
    return element("div", heading, element("div", *charts, class_="charts"))


def _chart(title: str, what: str, lines: Sequence[Line], text: Callable[[float], str], log: bool) -> Markup:
    ends = [f"{line.label} from {text(line.points[0][1])} to {text(line.points[-1][1])}" for line in lines]
    chart = line_chart(f"{title}: {what}", ", ".join(ends), lines, text, log)
    return element("figure", element("figcaption", what), chart)


def _line(report: Report, phase: Phase, points: Sequence[tuple[float, float]], dots: bool) -> Line:
    name = phase.name if phase.member is None else report.devices[phase.member].name
    return Line(name, tuple(points), colour(phase.member), phase.member, not phase.kept, dots)


def _validated(phase: Phase) -> list[tuple[float, float]]:
    return [(float(step), y) for step, y in zip(phase.steps, phase.validation, strict=True) if y is not None]


def _loss(value: float) -> str:
    return f"{value:.2g}"
