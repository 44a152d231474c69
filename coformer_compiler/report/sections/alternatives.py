"""The policies for a changing network: what each is predicted to take at every bandwidth, and where they change."""

from __future__ import annotations

from coformer_compiler.report.blocks import Heading, body_row, section, table_html
from coformer_compiler.report.markup import Markup, element
from coformer_compiler.report.numerals import percent_text, scale_ms
from coformer_compiler.report.schema import Alternatives, Report


def alternatives_html(report: Report) -> Markup:
    """The section; nothing where one policy was built."""
    told = report.alternatives
    if told is None:
        return Markup("")
    word = "estimated" if told.estimated else "predicted"
    scale = scale_ms([each for built in told.built for each in built.latency])
    headings = (
        Heading("alternative", class_=""),
        Heading("members", class_=""),
        Heading("links", "Mbit/s", class_=""),
        Heading(report.metric, "%"),
        *(Heading(f"at {mbps:g}", f"Mbit/s, {scale.unit}") for mbps in told.bandwidths),
    )
    rows = []
    for number, built in enumerate(told.built):
        cells = [_latency(told, n, number, scale.number(each)) for n, each in enumerate(built.latency)]
        name = built.name + (" (this report)" if number == told.this and len(told.built) > 1 else "")
        rows.append(
            body_row(
                name,
                (", ".join(built.members), ranges_text(told, number), percent_text(built.expected_accuracy), *cells),
                headings,
            )
        )
    table = table_html(
        f"Latency of a request, {word}; bold: the alternative that is used at this bandwidth.", headings, rows
    )
    return section("For other bandwidths", _lead(told), table, element("p", memory_text(report), class_="soft"))


def _lead(told: Alternatives) -> str:
    if len(told.built) == 1:
        return "One policy is the choice at every bandwidth that was asked for."
    ends = ", ".join(f"{each.to_mbps:.3g}" for each in told.ranges if each.to_mbps is not None)
    return (
        f"{len(told.built)} policies; the central node changes between them at {ends} Mbit/s as it measures its links. "
        f"It begins with {told.built[told.start].name}."
    )


def _latency(told: Alternatives, bandwidth: int, number: int, text: str) -> str:
    used = alternative_at(told, told.bandwidths[bandwidth]) == number
    return element("b", text) if used else text


def alternative_at(told: Alternatives, mbps: float) -> int:
    """The number of the alternative for a rate."""
    return next(each.alternative for each in told.ranges if each.to_mbps is None or mbps < each.to_mbps)


def ranges_text(told: Alternatives, number: int) -> str:
    """For which rates an alternative is: "0 to 14.2, from 300"."""
    return ", ".join(
        f"from {each.from_mbps:.3g}" if each.to_mbps is None else f"{each.from_mbps:.3g} to {each.to_mbps:.3g}"
        for each in told.ranges
        if each.alternative == number
    )


def memory_text(report: Report) -> str:
    """What all alternatives of a device need together."""
    assert report.alternatives is not None
    limits = {device.name: device.memory_mb for device in report.devices}
    parts = [
        f"{name} {count / 1e6:,.0f}{f' of {limits[name]:,.0f}' if name in limits else ''} MB"
        for name, count in report.alternatives.memory_bytes.items()
    ]
    return f"Memory with all alternatives open at the same time: {', '.join(parts)}."
