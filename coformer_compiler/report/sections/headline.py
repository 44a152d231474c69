"""The top of the page: what was built, and the four figures that decide whether it is any good."""

from __future__ import annotations

from coformer_compiler.report.blocks import device_name, not_measured
from coformer_compiler.report.markup import Markup, element, joined
from coformer_compiler.report.numerals import (
    MINUS,
    THIN_SPACE,
    bytes_text,
    percent_text,
    points_text,
    scale_for,
    scale_ms,
)
from coformer_compiler.report.rows import wire_bytes
from coformer_compiler.report.schema import Report


def headline_html(report: Report) -> Markup:
    """Title, notes and headline figures."""
    samples = f", {report.accuracy.samples:,} samples" if report.accuracy.samples else ""
    subtitle = f"{report.teacher} · {report.data}, {report.split} split{samples} · seed {report.seed} · "
    notes = [
        element("li", element("b", "Warning: " if note.level == "warning" else ""), note.text, class_=note.level)
        for note in report.notes
    ]
    figures = (_accuracy(report), _flops(report), _wire(report), _latency(report))
    return element(
        "header",
        element("h1", report.title),
        element("p", subtitle, "build ", element("code", report.build[:12]), class_="soft"),
        element("div", *figures, class_="headline"),
        element("ul", *notes, class_="notes") if notes else "",
    )


def _figure(name: str, value: str, *details: str) -> Markup:
    return element("div", element("h2", name), value, *details)


def _value(number: str, unit: str) -> Markup:
    return element("div", number, element("small", THIN_SPACE + unit), class_="value")


def _missing(report: Report, path: str) -> Markup:
    return element("div", not_measured(report, path), class_="value absent", style="white-space:normal")


def _accuracy(report: Report) -> Markup:
    accuracy = report.accuracy
    name = f"{report.metric[0].upper()}{report.metric[1:]}, all together"
    if accuracy.aggregated is None:
        return _figure(name, _missing(report, "accuracy.aggregated"))
    details = []
    if accuracy.teacher is not None:
        points = points_text(accuracy.aggregated, accuracy.teacher)
        distance = points.lstrip(f"+{MINUS}")
        words = {"+": "above", MINUS: "below"}.get(points[0])
        text = f"{distance} points {words} the teacher's" if words else "the same as the teacher's"
        details.append(element("p", f"{text} {percent_text(accuracy.teacher)}{THIN_SPACE}%"))
    if accuracy.aggregated_untrained is not None:
        before = percent_text(accuracy.aggregated_untrained)
        details.append(element("p", f"{before}{THIN_SPACE}% transplanted, before any training"))
    return _figure(name, _value(percent_text(accuracy.aggregated), "%"), *details)


def _flops(report: Report) -> Markup:
    whole = report.cost.teacher.flops
    name = "Largest member's FLOPs"
    if not whole or not report.cost.members:
        return _figure(name, _missing(report, "cost.teacher"))
    teacher = f"of the teacher's {scale_for([whole]).quantity(whole)}"
    shares = [member.flops / whole for member in report.cost.members]
    items = [
        element("li", element("span", device_name(report, n)), element("span", f"{percent_text(share)}{THIN_SPACE}%"))
        for n, share in enumerate(shares)
    ]
    return _figure(name, _value(percent_text(max(shares)), "%"), element("p", teacher), element("ul", joined(items)))


def _wire(report: Report) -> Markup:
    everybody = range(len(report.devices))
    number, _, unit = bytes_text(wire_bytes(report, everybody)).partition(THIN_SPACE)
    away = [n for n in everybody if not report.devices[n].central]
    sent = [report.cost.members[n].input_bytes for n in away]
    if not away:
        return _figure("On the wire, per request", _value(number, unit), element("p", "the only device answers itself"))
    details = [element("p", f"features of {len(away)} of {len(report.devices)} devices, in one round")]
    known = [size for size in sent if size is not None]
    if known and len(known) == len(sent):
        details.append(element("p", f"{bytes_text(sum(known))} of input go out to them"))
    return _figure("On the wire, per request", _value(number, unit), *details)


def _latency(report: Report) -> Markup:
    latency = report.latency_ms
    name = "Latency of a request, median"
    if latency.aggregated is None:
        return _figure(name, _missing(report, "latency_ms.aggregated"))
    timings = [t for t in (latency.aggregated, latency.teacher) if t is not None]
    scale = scale_ms(t.median for t in timings)
    details = [
        element("p", f"95th percentile {scale.quantity(latency.aggregated.p95)}, {latency.aggregated.runs:,} runs")
    ]
    if latency.teacher is not None:
        details.append(element("p", f"the teacher's engine alone: {scale.quantity(latency.teacher.median)}"))
    return _figure(name, _value(scale.number(latency.aggregated.median), "ms"), *details)
