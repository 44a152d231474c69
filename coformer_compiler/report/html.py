"""The report as one HTML file."""

from __future__ import annotations

from coformer_compiler.report.schema import Report


def html_from_report(report: Report) -> str:
    """The whole page."""
    return f"<!doctype html><title>{report.title}</title>"
