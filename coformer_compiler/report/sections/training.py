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
    "joint": "Members and aggregator together",
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
    loss = [_line(report, phase, phase.loss, dots=False) for phase in phases]
    checked = [_line(report, phase, phase.validation, dots=True) for phase in phases]
    log = all(y > 0 for line in loss for _, y in line.points)
    charts = (
        _chart(report, title, "Training loss, log scale" if log else "Training loss", loss, _loss, log),
        _chart(report, title, f"Validation accuracy,{THIN_SPACE}%", checked, percent_text, False),
    )
    heading = element("h3", title + ("" if all(phase.kept for phase in phases) else " (not kept)"))
    return element("div", heading, element("div", *charts, class_="charts"))


def _chart(
    report: Report, title: str, what: str, lines: Sequence[Line], text: Callable[[float], str], log: bool
) -> Markup:
    drawn = [line for line in lines if line.points]
    if drawn:
        ends = [f"{line.label} from {text(line.points[0][1])} to {text(line.points[-1][1])}" for line in drawn]
        picture = line_chart(f"{title}: {what}", ", ".join(ends), drawn, text, log)
    else:
        picture = element("p", not_measured(report, "history"))
    return element("figure", element("figcaption", what), picture)


def _line(report: Report, phase: Phase, figures: Sequence[float | None], dots: bool) -> Line:
    name = phase.name if phase.member is None else report.devices[phase.member].name
    points = tuple((float(step), y) for step, y in zip(phase.steps, figures, strict=True) if y is not None)
    return Line(name, points, colour(phase.member), phase.member, not phase.kept, dots)


def _loss(value: float) -> str:
    return f"{value:.2g}"
