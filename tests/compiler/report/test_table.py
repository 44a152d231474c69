"""The terminal table, as golden text and in every width."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
from rich.console import Console

from coformer_compiler.report.rows import absences, rows_from_report
from coformer_compiler.report.table import predictions, print_table

GOLDEN = Path(__file__).parent / "golden"


def printed(report, width, terminal=False, encoding="utf-8"):
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    colour = "truecolor" if terminal else None
    console = Console(file=file, width=width, force_terminal=terminal, color_system=colour, legacy_windows=False)
    print_table(report, console)
    file.flush()
    return "\n".join(line.rstrip() for line in file.buffer.getvalue().decode(encoding).splitlines()) + "\n"


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", ["digits", "big", "bare"])
def test_golden_text(name, width, request):
    text = printed(request.getfixturevalue(f"{name}_report"), width)
    golden = GOLDEN / f"table-{name}-{width}.txt"
    if request.config.getoption("--update-golden"):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize("name", ["digits_report", "big_report", "bare_report"])
def test_no_line_is_wider_than_the_terminal(name, width, request):
    text = printed(request.getfixturevalue(name), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text


def test_a_file_gets_ascii_without_escapes(digits_report):
    assert printed(digits_report, 80, encoding="ascii").isascii()
    assert "\x1b" not in printed(digits_report, 80)


def test_a_terminal_gets_bold_and_rules(digits_report):
    text = printed(digits_report, 80, terminal=True)
    assert "\x1b[1m" in text and "───" in text


def test_markup_in_names_is_printed_as_it_is(digits_report):
    import dataclasses

    report = dataclasses.replace(digits_report, title="[bold]x[/bold] [/]")
    assert "[bold]x[/bold] [/]" in printed(report, 80)


def test_rows_come_from_teacher_to_all(digits_report):
    rows = rows_from_report(digits_report)
    assert [row.label for row in rows] == [
        "teacher", "attic", "hall", "desk", "attic + hall", "attic + desk", "hall + desk", "all together",
    ]  # fmt: skip
    last = rows[-1]
    assert last.wire_bytes == 96 + 128, "the central device's own features do not travel"
    assert last.flops == 4_710_144 + 1_402_368 + 2_883_584 + 1_920
    assert last.timing == digits_report.latency_ms.aggregated


def test_a_member_through_its_own_aggregator_is_a_row_where_it_differs(big_report):
    labels = [row.label for row in rows_from_report(big_report)]
    assert "pi-garage (aggregator)" in labels and len(labels) == 1 + 4 + 14 + 1


def test_an_estimate_of_other_devices_is_not_judged_by_this_host(digits_report):
    assert predictions(digits_report)[1] == "  measured on this host: 1.52\u202fms; error \u22125.3 %"
    told = dataclasses.replace(digits_report.predicted_ms, estimated=True)
    lines = predictions(dataclasses.replace(digits_report, predicted_ms=told))
    assert lines[0].startswith("latency of a request, estimated from the policy: ")
    assert lines[1] == "  measured with all members on this host: 1.52\u202fms; the estimate is of the devices"


def test_absences_are_told_with_their_reasons(bare_report, digits_report):
    assert absences(digits_report) == []
    assert absences(bare_report) == [
        "Not measured: accuracy of the teacher, all together and one; "
        "accuracy before training of all together and one (dry run).",
        "Not measured: latency of the teacher, a whole request and one; engine size of one.",
    ]
