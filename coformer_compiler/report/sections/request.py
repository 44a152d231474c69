"""Where one request spends its time: devices down, milliseconds across, and the same as a table."""

from __future__ import annotations

from collections.abc import Sequence

from coformer_compiler.report.blocks import (
    Heading,
    body_row,
    colour,
    device_name,
    not_measured,
    section,
    table_html,
)
from coformer_compiler.report.markup import Markup, element, figure_svg, percent
from coformer_compiler.report.numerals import NONE, Scale, scale_ms, tick_text, ticks
from coformer_compiler.report.schema import Report, Span, why_absent

PHASES = ("input", "compute", "features", "aggregate")
WORDS = {
    "input": "input sent",
    "compute": "computes",
    "features": "features back",
    "aggregate": "aggregates",
}
ROW, TOP = 40, 4
HEADINGS = (
    Heading("device", class_=""),
    *(Heading(WORDS[phase], "ms") for phase in PHASES),
    Heading("done at", "ms"),
)


def request_html(report: Report) -> Markup:
    """The section."""
    title = "One request, device by device"
    if not report.timeline:
        return section(title, "", element("p", not_measured(report, "timeline")))
    end = max(span.end_ms for span in report.timeline)
    scale = scale_ms(span.end_ms - span.start_ms for span in report.timeline)
    rows = [_table_row(report, n, scale) for n in range(len(report.devices))]
    remark = why_absent(report, "timeline")
    caption = element(
        "figcaption",
        "Thick: the device computes; thin: bytes on the wire; in the colour of the text: the aggregator. "
        "Zero is when the client's request arrives." + (f" {remark[0].upper()}{remark[1:]}." if remark else ""),
    )
    table = table_html("Durations of the same request.", HEADINGS, rows)
    return section(title, _lead(report, end, scale), element("figure", _picture(report, end, scale), caption), table)


def _lead(report: Report, end: float, scale: Scale) -> str:
    arrivals = [span for span in report.timeline if span.phase == "features"]
    if not arrivals:
        return ""
    last = max(arrivals, key=lambda span: span.end_ms)
    return (
        f"The answer is ready after {scale.quantity(end)}; the last features to arrive are {last.device}'s, "
        f"after {scale.quantity(last.end_ms)}."
    )


def _spans(report: Report, member: int) -> list[Span]:
    return [span for span in report.timeline if span.device == report.devices[member].name]


def _picture(report: Report, end: float, scale: Scale) -> Markup:
    height = TOP + ROW * len(report.devices)
    parts: list[str] = []
    found = ticks(0, end, 6)
    for tick in found:
        x = _across(tick, end)
        text = tick_text(tick) + (" ms" if tick == found[-1] else "")
        anchor = "start" if tick == 0 else "middle"
        parts += [
            element("line", x1=x, x2=x, y1=TOP, y2=height, class_="grid"),
            element("text", text, x=x, y=height + 15, text_anchor=anchor),
        ]
    for n, device in enumerate(report.devices):
        y = TOP + ROW * n
        role = " (central)" if device.central else ""
        parts.append(
            element("text", device.name + role, x="0", y=y + 13, class_=f"strong c {colour(n)}", data_device=n)
        )
        parts += [_bar(span, n, y + 18, end, scale) for span in _spans(report, n)]
    x = _across(end, end)
    parts += [element("line", x1=x, x2=x, y1=TOP, y2=height, class_="ref")]
    names = ", ".join(device.name for device in report.devices)
    return figure_svg(
        "Timeline of one request",
        f"Bars for {names} over {scale.quantity(end)}; the durations are in the table below.",
        height + 20,
        *parts,
    )


def _across(ms: float, end: float) -> str:
    return percent(0.99 * ms / end if end else 0.0)


def _bar(span: Span, member: int, y: float, end: float, scale: Scale) -> Markup:
    """Thick with its duration where there is room, or a thin line for what is on the wire."""
    wire = span.phase in ("input", "features")
    share = 0.99 * (span.end_ms - span.start_ms) / end if end else 0.0
    tall = 3 if wire else 16
    kind = "many" if span.phase == "aggregate" else f"c {colour(member)}{' wire' if wire else ''}"
    told = f"{span.device} {WORDS[span.phase]}: {scale.quantity(span.end_ms - span.start_ms)}"
    parts: list[str] = [
        element("title", told),
        element(
            "rect", x=_across(span.start_ms, end), y=y + (16 - tall) / 2, width=percent(share), height=tall, class_=kind
        ),
    ]
    if share > 0.06:
        middle = percent(0.99 * (span.start_ms + span.end_ms) / 2 / end)
        text = WORDS[span.phase]
        classes = [] if wire else ["in"]
        classes += ["roomy"] if share < 0.26 else []
        at = y + (3 if wire else 11.5)
        if share > (0.1 if wire else 0.08):
            parts.append(element("text", text, x=middle, y=at, text_anchor="middle", class_=" ".join(classes) or None))
    return element("g", *parts, data_device=member)


def _table_row(report: Report, member: int, scale: Scale) -> Markup:
    spans = _spans(report, member)
    cells = []
    for phase in PHASES:
        of_phase = [span.end_ms - span.start_ms for span in spans if span.phase == phase]
        cells.append(scale.number(sum(of_phase)) if of_phase else _nothing(report, member, phase))
    cells.append(scale.number(max(span.end_ms for span in spans)) if spans else NONE)
    return body_row(device_name(report, member), cells, HEADINGS)


def _nothing(report: Report, member: int, phase: str) -> str:
    """Blank where a device has no such phase; a dash where it was not traced."""
    central = report.devices[member].central
    expected: Sequence[str] = ("compute", "aggregate") if central else ("input", "compute", "features")
    return NONE if phase in expected else ""
