"""What the teacher and each member cost: work, weights, memory, bytes, time."""

from __future__ import annotations

from collections.abc import Sequence

from coformer_compiler.report.blocks import Heading, body_row, device_name, section, share_bar, table_html
from coformer_compiler.report.markup import Markup, joined
from coformer_compiler.report.numerals import MINUS, NONE, Scale, bytes_text, medians, percent_text, scale_for, scale_ms
from coformer_compiler.report.schema import MemberCost, ModelCost, Prediction, Report, Timing


def costs_html(report: Report) -> Markup:
    """The section."""
    return section("Costs", _lead(report), _work(report), _devices(report), _predictions(report))


def _lead(report: Report) -> str:
    whole = report.cost.teacher.flops
    total = sum(member.flops for member in report.cost.members)
    if not whole or len(report.cost.members) < 2:
        return ""
    return f"All members together do {percent_text(total / whole, 0)} % of the teacher's work."


def _work(report: Report) -> Markup:
    cost, latency = report.cost, report.latency_ms
    flops = scale_for([cost.teacher.flops, *(member.flops for member in cost.members)])
    params = scale_for([cost.teacher.params, *(member.params for member in cost.members)])
    time = scale_ms(medians([latency.teacher, *latency.members]))
    headings = (
        Heading("model", class_=""),
        Heading("FLOPs", flops.unit),
        Heading("of the teacher's", "%"),
        Heading("", class_="roomy"),
        Heading("parameters", params.unit),
        Heading("of the teacher's", "%"),
        Heading("engine file"),
        Heading("median", "ms"),
        Heading("p95", "ms"),
    )

    def row(name: str, model: ModelCost | MemberCost, measured: tuple[str, str, str], member: int | None) -> Markup:
        share = model.flops / cost.teacher.flops if cost.teacher.flops else None
        cells = (
            flops.number(model.flops),
            percent_text(share),
            share_bar(share or 0.0, member),
            params.number(model.params),
            percent_text(model.params / cost.teacher.params if cost.teacher.params else None),
            *measured,
        )
        return body_row(name, cells, headings)

    rows = [row("teacher", cost.teacher, ("", *_times(latency.teacher, time)), None)]
    for n, (member, timing) in enumerate(zip(cost.members, latency.members, strict=True)):
        rows.append(row(device_name(report, n), member, (bytes_text(member.engine_bytes), *_times(timing, time)), n))
    if cost.aggregator:
        rows.append(row("aggregator of all", cost.aggregator, ("", "", ""), None))
    return table_html(_caption(report), headings, rows)


def _times(timing: Timing | None, scale: Scale) -> tuple[str, str]:
    return scale.number(timing.median if timing else None), scale.number(timing.p95 if timing else None)


def _caption(report: Report) -> str:
    runs = sorted({t.runs for t in (report.latency_ms.teacher, *report.latency_ms.members) if t is not None})
    told = "One forward pass of one sample; a multiply-accumulate is two operations."
    if runs:
        told += f" Latency of each engine alone on this host, {' or '.join(f'{r:,}' for r in runs)} runs."
    return told


def _devices(report: Report) -> Markup:
    headings = (
        Heading("device", class_=""),
        Heading("target", class_=""),
        Heading("engine", class_=""),
        Heading("speed", "GFLOPS"),
        Heading("memory", "MB"),
        Heading("planned with", "MB"),
        Heading("", class_="roomy"),
        Heading("input", "bytes in"),
        Heading("features", "bytes out"),
    )
    rows = []
    for n, (device, cost) in enumerate(zip(report.devices, report.cost.members, strict=True)):
        planned = None if cost.memory_bytes is None else cost.memory_bytes / 1e6
        cells = (
            device.target,
            device.engine if device.precision == "float32" else f"{device.engine}, {device.precision}",
            f"{device.gflops:,.1f}" if device.gflops < 100 else f"{device.gflops:,.0f}",
            f"{device.memory_mb:,.0f}",
            NONE if planned is None else f"{planned:,.1f}" if planned < 100 else f"{planned:,.0f}",
            share_bar(planned / device.memory_mb, n) if planned is not None and device.memory_mb else "",
            "stays" if device.central else NONE if cost.input_bytes is None else f"{cost.input_bytes:,}",
            "stay" if device.central else f"{cost.wire_bytes:,}",
        )
        name = joined([device_name(report, n), " (central)" if device.central else ""])
        rows.append(body_row(name, cells, headings))
    return table_html("The devices, and what a request moves over the wire.", headings, rows)


def _predictions(report: Report) -> Markup:
    """Predicted against measured, each member's engine and the whole request, with the error."""
    found = report.predicted_ms
    if found is None:
        return Markup("")
    measured, whole = report.latency_ms.members, report.latency_ms.aggregated
    scale = scale_ms([found.total, *(each.compute for each in found.members), *medians([*measured, whole])])
    word = "estimated" if found.estimated else "predicted"
    headings = (
        Heading("device", class_=""),
        Heading(f"computes, {word}", "ms"),
        Heading("on this host", "ms"),
        Heading("error", "%"),
        Heading(f"answers, {word}", "ms"),
        Heading("rests on", class_=""),
    )
    rows = []
    for n, (each, timing) in enumerate(zip(found.members, measured, strict=True)):
        cells = (
            scale.number(each.compute),
            scale.number(timing.median if timing else None),
            error_text(each.compute, timing, estimated=each.estimated),
            scale.number(each.arrival),
            each.basis,
        )
        rows.append(body_row(device_name(report, n), cells, headings))
    cells = (
        "",
        scale.number(whole.median if whole else None),
        error_text(found.total, whole, estimated=found.estimated),
        scale.number(found.total),
        "the members and the network",
    )
    rows.append(body_row("a whole request", cells, headings, "sum"))
    return table_html(_predictions_caption(found, measured, whole, scale), headings, rows)


def _predictions_caption(
    found: Prediction, measured: Sequence[Timing | None], whole: Timing | None, scale: Scale
) -> str:
    word = "estimated" if found.estimated else "predicted"
    text = f"Latency of a request, {word} before anything was built: {scale.quantity(found.total)}."
    if whole is not None:
        text += f" Measured with all members on this host: {scale.quantity(whole.median)}."
    if any(each.estimated and timing is not None for each, timing in zip(found.members, measured, strict=True)):
        text += " In brackets: errors of estimates, which are of the devices as they are described, not of this host."
    return text


def error_text(predicted: float | None, timing: Timing | None, *, estimated: bool) -> str:
    """How much more was predicted than measured, in per cent with its sign; in brackets for an estimate."""
    if predicted is None or timing is None:
        return NONE
    error = predicted / timing.median - 1
    text = ("+" if error > 0 else MINUS if error < 0 else "") + percent_text(abs(error))
    return f"({text})" if estimated else text
