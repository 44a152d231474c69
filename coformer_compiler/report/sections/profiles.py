"""The shapes that every member has a graph for, and what each takes on this machine."""

from __future__ import annotations

from coformer_compiler.report.blocks import Heading, body_row, device_name, section, table_html
from coformer_compiler.report.markup import Markup
from coformer_compiler.report.numerals import NONE, Scale, medians, scale_ms
from coformer_compiler.report.schema import ProfileTiming, Report, Timing


def profiles_html(report: Report) -> Markup:
    """The section; nothing where there is the one shape alone."""
    if not report.profiles:
        return Markup("")
    scale = scale_ms(medians([timing for each in report.profiles for timing in each.members]))
    headings = (
        Heading("device", class_=""),
        *(Heading(shape_text(each), "ms") for each in report.profiles),
    )
    rows = [
        body_row(
            device_name(report, n),
            [_median(each.members[n], scale) for each in report.profiles],
            headings,
        )
        for n in range(len(report.devices))
    ]
    lead = (
        f"Every member has {len(report.profiles)} graphs that share their weights; the central device takes the "
        "smallest that a request fits."
    )
    return section("Profiles", lead, table_html("Median of a whole batch, by shape of the input.", headings, rows))


def _median(timing: Timing | None, scale: Scale) -> str:
    return NONE if timing is None else scale.number(timing.median)


def shape_text(profile: ProfileTiming) -> str:
    """Samples and tokens, such as "4 × 128"; of images "batch of 4"."""
    batch, *rest = profile.shape
    return f"batch of {batch}" if len(rest) == 3 else f"{batch} × {rest[-1]}"
