"""The report as a table for the terminal."""

from __future__ import annotations

from rich.console import Console, RenderableType

from coformer_compiler.report.schema import Report


def table_from_report(report: Report) -> RenderableType:
    """The table."""
    return report.title


def print_table(report: Report, console: Console) -> None:
    """Print the table."""
    console.print(table_from_report(report))
