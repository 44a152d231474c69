"""Policies for other bandwidths in the report: page, terminal and JSON."""

from __future__ import annotations

import dataclasses

import pytest

from coformer_compiler.report.check import check_report, report_from_json
from coformer_compiler.report.html import html_from_report
from coformer_compiler.report.schema import Alternative, Alternatives, Range
from coformer_compiler.report.table import alternatives
from coformer_runtime.errors import CoformerError
from tests.compiler.report.test_html import parsed


def with_alternatives(report, **changes):
    """The report as the second of two alternatives; the first leaves out a device."""
    names = tuple(device.name for device in report.devices)
    built = (
        Alternative("2mbps", "1" * 64, names[:1], 0.91, (4.0, 3.5)),
        Alternative("100mbps", "2" * 64, names, 0.985, (90.0, 2.5)),
    )
    ranges = (Range(0.0, 14.25, 0), Range(14.25, None, 1))
    memory = dict.fromkeys(names, 123_000_000)
    told = Alternatives((2.0, 100.0), True, built, ranges, 1, memory, 1)
    return dataclasses.replace(report, alternatives=dataclasses.replace(told, **changes))


def test_alternatives_are_shown_with_where_they_change(digits_report):
    report = with_alternatives(digits_report)
    page = html_from_report(report)
    text = " ".join(parsed(page).text).replace("\u2009", " ")
    assert "2 policies; the central node changes between them at 14.2 Mbit/s as it measures its links." in text
    assert "It begins with 100mbps." in text and "100mbps (this report)" in text
    assert "0 to 14.2" in text and "from 14.2" in text
    assert "<b>4.00</b>" in page and "<b>2.50</b>" in page and "<b>90.00</b>" not in page
    assert "Memory with all alternatives open at the same time: attic 123 of 512 MB" in text
    assert "For other bandwidths" not in html_from_report(digits_report)
    assert report_from_json(report.to_json()) == report


def test_one_policy_for_all_bandwidths_is_said_to_be_one(digits_report):
    told = with_alternatives(digits_report).alternatives
    one = with_alternatives(digits_report, built=told.built[1:], ranges=(Range(0.0, None, 0),), start=0, this=0)
    text = " ".join(parsed(html_from_report(one)).text)
    assert "One policy is the choice at every bandwidth that was asked for." in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"start": 2}, "'alternatives' names number 2 of 2"),
        ({"ranges": (Range(0.0, None, 5),)}, "'alternatives' names number 5 of 2"),
        ({"bandwidths": (2.0,)}, r"'alternatives.built\[0\].latency' has 2 entries for 1 bandwidths"),
    ],
)
def test_alternatives_that_disagree_are_refused(digits_report, changes, said):
    with pytest.raises(CoformerError, match=said):
        check_report(with_alternatives(digits_report, **changes))


def test_alternatives_in_the_terminal(digits_report):
    assert alternatives(with_alternatives(digits_report, estimated=False))[0] == "alternatives, ms at 2 / 100 Mbit/s:"
    lines = alternatives(with_alternatives(digits_report))
    assert lines[0] == "alternatives, ms, estimated, at 2 / 100 Mbit/s:"
    assert lines[1] == "  2mbps: 4.00 / 3.50; accuracy 91.0 %; attic; 0 to 14.2 Mbit/s"
    assert lines[2].startswith("  100mbps: 90.00 / 2.50; accuracy 98.5 %; attic + ")
    assert lines[2].endswith("; from 14.2 Mbit/s, begun with")
    assert alternatives(digits_report) == []
