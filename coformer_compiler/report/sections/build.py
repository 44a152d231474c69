"""What makes the build reproducible, and where its time went."""

from __future__ import annotations

from coformer_compiler.report.blocks import Heading, body_row, definitions, not_measured, section, share_bar, table_html
from coformer_compiler.report.markup import Markup, element
from coformer_compiler.report.numerals import seconds_text
from coformer_compiler.report.schema import Report

HEADINGS = (Heading("stage", class_=""), Heading("time"), Heading("", class_="roomy"), Heading("", class_=""))


def build_html(report: Report) -> Markup:
    """The section."""
    facts = [("seed", str(report.seed)), ("build", element("code", report.build))]
    facts += [(name, element("code", digest)) for name, digest in sorted(report.digests.items())]
    versions = sorted(report.versions.items())
    left = element("div", element("h3", "Time of each stage"), _stages(report))
    right = element(
        "div",
        element("h3", "Versions"),
        definitions(versions) if versions else not_measured(report, "versions", "not recorded"),
    )
    return section(
        "The build", "", element("h3", "Seed and digests (SHA-256)"), definitions(facts),
        element("div", left, right, class_="columns"),
    )  # fmt: skip


def _stages(report: Report) -> Markup:
    if not report.stages:
        return element("p", not_measured(report, "stages", "not recorded"))
    longest = max(stage.seconds for stage in report.stages)
    rows = [
        body_row(
            stage.name,
            (
                seconds_text(stage.seconds),
                share_bar(stage.seconds / longest if longest else 0.0),
                "from the cache" if stage.cached else "",
            ),
            HEADINGS,
        )
        for stage in report.stages
    ]
    total = sum(stage.seconds for stage in report.stages)
    rows.append(body_row("all", (seconds_text(total), "", ""), HEADINGS, "sum"))
    return table_html("Wall clock.", HEADINGS, rows)
