"""The comparison as a table for the terminal: the essentials in 80 columns, more where there is room."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from coformer_compiler.report.numerals import NONE, Scale, medians, percent_text, points_text, scale_for, scale_ms
from coformer_compiler.report.rows import Row, absences, rows_from_report
from coformer_compiler.report.schema import Report
from coformer_compiler.report.sections.alternatives import memory_text, ranges_text
from coformer_compiler.report.sections.costs import error_text

ROOMY = 100
LONGEST_LABEL = 20
ASCII = str.maketrans({NONE: "-", "\u2212": "-", "\u202f": " ", "\u00d7": "x"})

# Only a rule below the headings, and a blank between the columns.
_PLAIN = box.Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)


@dataclass(frozen=True)
class Column:
    """A column: two-line heading, the cell's text, and whether it waits for a wide terminal."""

    heading: str
    cell: Callable[[Row], str]
    roomy: bool = False
    style: str = ""
    justify: Literal["left", "right"] = "right"


@dataclass(frozen=True)
class ReportTable:
    """What rich prints; it chooses its columns by the width that it is given."""

    report: Report

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """The title, the table, what was not measured, and the notes."""
        report = self.report
        samples = f", {report.accuracy.samples:,} samples" if report.accuracy.samples else ""
        yield Text(report.title, style="bold")
        yield Text(f"{report.teacher}; {report.data}, {report.split} split{samples}; seed {report.seed}", style="dim")
        yield Text("")
        yield _table(report, options.max_width >= ROOMY, plain=options.ascii_only or not console.is_terminal)
        remarks = [(line, "dim") for line in (*predictions(report), *alternatives(report), *absences(report))]
        remarks += [
            (f"{note.level}: {note.text}", "yellow" if note.level == "warning" else "dim") for note in report.notes
        ]
        if remarks:
            yield Text("")
        for line, style in remarks:
            yield Text(line.translate(ASCII), style=style)


def predictions(report: Report) -> list[str]:
    """What latency was predicted, "estimated" where it rests on less than measurements, and how far off that was."""
    found = report.predicted_ms
    if found is None:
        return []
    word = "estimated" if found.estimated else "predicted"
    lines = [f"latency of a request, {word} from the policy: {scale_ms([found.total]).quantity(found.total)}"]
    whole = report.latency_ms.aggregated
    if whole is not None:
        taken = scale_ms([whole.median]).quantity(whole.median)
        if found.estimated:  # of the devices as they are described; how far this host is from them is no error
            lines.append(f"  measured with all members on this host: {taken}; the estimate is of the devices")
        else:
            error = error_text(found.total, whole, estimated=False)
            lines.append(f"  measured on this host: {taken}; error {error} %")
    return lines


def alternatives(report: Report) -> list[str]:
    """The policies for other bandwidths, a line each: latency at every bandwidth, and the rates that it is for."""
    told = report.alternatives
    if told is None:
        return []
    scale = scale_ms([each for built in told.built for each in built.latency])
    word = "ms, estimated," if told.estimated else "ms"
    lines = [f"alternatives, {word} at {' / '.join(f'{mbps:g}' for mbps in told.bandwidths)} Mbit/s:"]
    for number, built in enumerate(told.built):
        times = " / ".join(scale.number(each) for each in built.latency)
        accuracy = f"{report.metric} {percent_text(built.expected_accuracy)} %"
        begins = ", begun with" if number == told.start else ""
        lines.append(
            f"  {built.name}: {times}; {accuracy}; {' + '.join(built.members)}; {ranges_text(told, number)} "
            f"Mbit/s{begins}"
        )
    return [*lines, memory_text(report)]


def table_from_report(report: Report) -> ReportTable:
    """The table, for any rich console."""
    return ReportTable(report)


def print_table(report: Report, console: Console | None = None) -> None:
    """Print the table; plain text where the console is no terminal."""
    (console or Console()).print(ReportTable(report))


def _table(report: Report, roomy: bool, plain: bool) -> Table:
    rows = rows_from_report(report)
    columns = [column for column in _columns(report, rows) if roomy or not column.roomy]
    table = Table(
        box=_PLAIN if plain else box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 2, 0, 0),
        pad_edge=False,
        header_style="bold",
    )
    for column in columns:
        table.add_column(
            column.heading, justify=column.justify, style=column.style, vertical="bottom", overflow="fold",
            no_wrap=column.justify == "right",
        )  # fmt: skip
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        ends = following is None or following.kind != row.kind
        table.add_row(
            *(Text(column.cell(row).translate(ASCII)) for column in columns),
            style="bold" if row.kind == "all" else "",
            end_section=ends,
        )
    return table


def _columns(report: Report, rows: list[Row]) -> list[Column]:
    flops = scale_for([row.flops for row in rows])
    params = scale_for([row.params for row in rows])
    wire = scale_for([row.wire_bytes for row in rows], "B")
    wire = wire if wire.factor > 1e3 else Scale("B", 1.0, 0)
    time = scale_ms(medians(row.timing for row in rows))
    teacher = report.accuracy.teacher
    numbered = any(len(row.label) > LONGEST_LABEL for row in rows if row.kind == "subset")
    targets = [device.target for device in report.devices]
    whole = report.cost.teacher.flops
    return [
        Column("", lambda row: _label(row, numbered), justify="left"),
        Column("\ntarget", lambda row: targets[row.members[0]] if row.kind == "member" else "", True, justify="left"),
        Column("trans-\nplanted", lambda row: _cell(row, percent_text(row.untrained)), style="dim"),
        Column("cali-\nbrated", lambda row: percent_text(row.calibrated)),
        *([Column("as\nbuilt", lambda row: _cell(row, percent_text(row.lowered)))] if report.accuracy.lowered else []),
        Column("vs\nteacher", lambda row: _cell(row, points_text(row.calibrated, teacher)), True),
        Column(f"{flops.unit}\nFLOPs".strip(), lambda row: flops.number(row.flops)),
        Column("% of\nteacher", lambda row: percent_text(row.flops / whole) if whole else NONE, True),
        Column(f"{params.unit}\nparams".strip(), lambda row: params.number(row.params)),
        Column(f"wire\n{wire.unit}", lambda row: "" if row.wire_bytes is None else wire.number(row.wire_bytes)),
        Column("ms\nmedian", lambda row: _timed(row, time.number(row.timing.median if row.timing else None))),
        Column("ms\np95", lambda row: _timed(row, time.number(row.timing.p95 if row.timing else None))),
    ]


def _label(row: Row, numbered: bool) -> str:
    """The row's name; where those of the subsets are too long, members get numbers: "0 attic", "0 + 2"."""
    if not numbered or row.kind in ("teacher", "all"):
        return row.label
    numbers = " + ".join(map(str, row.members))
    if row.kind == "member":
        return f"{numbers} {row.label}"
    return numbers if len(row.members) > 1 else f"{numbers} (aggregator)"


def _cell(row: Row, text: str) -> str:
    """Nothing where the teacher has no such figure, as against one that was not measured."""
    return "" if row.kind == "teacher" else text


def _timed(row: Row, text: str) -> str:
    """Nothing for subsets, whose latency nobody measures."""
    return "" if row.kind == "subset" else text
