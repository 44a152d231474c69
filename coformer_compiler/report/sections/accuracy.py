"""Who answers how well: a table whose last column draws the way from transplanted to calibrated."""

from __future__ import annotations

import math

from coformer_compiler.report.blocks import Heading, caption_html, chips, colour, head_row, section
from coformer_compiler.report.markup import Markup, element, figure_svg, joined, percent
from coformer_compiler.report.numerals import THIN_SPACE, percent_text, points_text, tick_text, ticks
from coformer_compiler.report.rows import Row, absences, rows_from_report
from coformer_compiler.report.schema import Report, members_of

ROW_HEIGHT = 28
BEFORE = (Heading("who answers", class_=""), Heading("transplanted", "%"), Heading("calibrated", "%"))
BUILT = Heading("as built", "%")
AFTER = Heading("against teacher", "points", class_="n roomy")


def accuracy_html(report: Report) -> Markup:
    """The section."""
    rows = rows_from_report(report)
    known = [share for row in rows for share in (row.untrained, row.calibrated) if share is not None]
    remarks = [element("p", line, class_="absent") for line in absences(report)]
    if not known:
        return section("Accuracy", "", *remarks)
    low, high = _range(known)
    body = [_row_html(report, row, low, high, _is_first(rows, i)) for i, row in enumerate(rows)]
    caption = (
        f"{_metric(report)} on the {report.split} split{_uncertainty(report)} Filled squares: the devices that take "
        "part. In the plot, open: transplanted, before any training; filled: calibrated; upright line: the teacher."
    )
    if report.accuracy.lowered is not None:
        caption += " As built: what the engines compute in the devices' precision."
    headings = (*BEFORE, *([BUILT] if report.accuracy.lowered is not None else []), AFTER)
    head = head_row(headings, _axis(low, high))
    table = element("table", caption_html(caption), head, element("tbody", joined(body)), class_="wide")
    return section("Accuracy", _lead(report), table, *remarks)


def _metric(report: Report) -> str:
    return "Top-1 accuracy" if report.metric == "accuracy" else report.metric


def _lead(report: Report) -> str:
    """What losing one device costs, in a sentence."""
    accuracy = report.accuracy
    count = len(report.devices)
    fallback = {name: share for name, share in accuracy.subsets.items() if count > 1 and name.count("-") == count - 2}
    if accuracy.aggregated is None or not fallback:
        return ""
    worst = min(fallback, key=lambda name: fallback[name])
    (lost,) = set(range(count)) - set(members_of(worst))
    drop = 100 * (accuracy.aggregated - fallback[worst])
    return (
        f"Without any one device the others still answer; losing {report.devices[lost].name} costs the most, "
        f"{drop:.1f} points."
    )


def _uncertainty(report: Report) -> str:
    """One standard error of the aggregated accuracy, where the number of samples is known."""
    samples, share = report.accuracy.samples, report.accuracy.aggregated
    if not samples or share is None or report.metric != "accuracy":
        return "."
    error = 100 * math.sqrt(share * (1 - share) / samples)
    return (
        f", {samples:,} samples: one sample is {100 / samples:.2g}{THIN_SPACE}points, "
        f"the standard error of all together {error:.2g}{THIN_SPACE}points."
    )


def _row_html(report: Report, row: Row, low: float, high: float, first: bool) -> Markup:
    teacher = report.accuracy.teacher
    name = element("div", chips(report, row.members) if row.members else "", row.label, class_="who")
    cells = (
        element("td", "" if row.kind == "teacher" else percent_text(row.untrained), class_="n was"),
        element("td", percent_text(row.calibrated), class_="n"),
        *([element("td", _built_text(row), class_="n")] if report.accuracy.lowered is not None else []),
        element("td", "" if row.kind == "teacher" else points_text(row.calibrated, teacher), class_="n roomy"),
        element("td", _plot(row, teacher, low, high), class_="plot"),
    )
    class_ = "sum" if row.kind == "all" else "first" if first else None
    return element("tr", element("th", name, scope="row"), *cells, class_=class_)


def _built_text(row: Row) -> str:
    return "" if row.kind == "teacher" else percent_text(row.lowered)


def _is_first(rows: list[Row], index: int) -> bool:
    return index > 0 and rows[index].kind != rows[index - 1].kind


def _range(known: list[float]) -> tuple[float, float]:
    """The plot's limits: a little beyond what there is, in steps of five points, never above 100 %."""
    low = math.floor(20 * min(known) - 0.4) / 20
    high = math.ceil(20 * max(known) + 0.2) / 20
    return max(0.0, low), min(1.0, max(high, low + 0.05))


def _at(share: float, low: float, high: float) -> str:
    """Across, leaving 6 % on either side for the axis labels."""
    return percent(0.06 + 0.88 * (share - low) / (high - low))


def _axis(low: float, high: float) -> Markup:
    found = ticks(low, high, 4)
    marks = [
        element("text", tick_text(100 * tick), x=_at(tick, low, high), y=13, text_anchor="middle") for tick in found
    ]
    return element("th", figure_svg("Axis of the plot", "accuracy in per cent", 17, *marks), scope="col", class_="plot")


def _plot(row: Row, teacher: float | None, low: float, high: float) -> Markup:
    """A line from the transplanted to the calibrated accuracy."""
    middle = ROW_HEIGHT / 2
    parts = [
        element("line", x1=_at(t, low, high), x2=_at(t, low, high), y1=0, y2=ROW_HEIGHT, class_="grid")
        for t in ticks(low, high, 4)
    ]
    if teacher is not None:
        x = _at(teacher, low, high)
        parts.append(element("line", x1=x, x2=x, y1=0, y2=ROW_HEIGHT, class_="ref"))
    one = colour(row.members[0]) if len(row.members) == 1 else "all"
    before, after = row.untrained, row.calibrated
    if before is not None and after is not None:
        x1, x2 = _at(before, low, high), _at(after, low, high)
        parts.append(element("line", x1=x1, x2=x2, y1=middle, y2=middle, class_=f"link {one}"))
    if before is not None:
        parts.append(element("circle", cx=_at(before, low, high), cy=middle, r=3.5, class_=f"mark {one}"))
    if after is not None:
        radius = 5 if row.kind == "all" else 4
        parts.append(element("circle", cx=_at(after, low, high), cy=middle, r=radius, class_=f"c {one}"))
    told = f"transplanted {percent_text(before)} per cent, calibrated {percent_text(after)} per cent"
    return figure_svg(row.label, told, ROW_HEIGHT, *parts)
