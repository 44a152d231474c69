"""How figures are written, and where ticks and labels go."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coformer_compiler.report.charts import spread, thinned
from coformer_compiler.report.numerals import (
    bytes_text,
    list_text,
    log_ticks,
    points_text,
    scale_for,
    scale_ms,
    seconds_text,
    ticks,
)


def test_one_scale_for_a_column():
    scale = scale_for([24_031_872, 4_710_144, 1_402_368], "FLOPs")
    assert scale.unit == "MFLOPs"
    assert [scale.number(v) for v in (24_031_872, 1_402_368, 1_920, 0, None)] == ["24.03", "1.40", "<0.01", "0.00", "–"]


def test_scale_of_nothing():
    assert scale_for([]).number(None) == "–" and scale_for([0, None], "B").quantity(0) == "0\u202fB"
    assert scale_ms([]).unit == "ms"


@pytest.mark.parametrize(
    ("value", "text"),
    [(224, "224 B"), (9_999, "9,999 B"), (531_204, "531 kB"), (52_500_000, "52.5 MB"), (None, "–"), (0, "0 B")],
)
def test_bytes(value, text):
    assert bytes_text(value) == text.replace(" ", "\u202f")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.034, "0.03 s"), (12.44, "12.4 s"), (200.9, "3 min 20 s"), (15_300, "4 h 15 min")],
)
def test_seconds(seconds, text):
    assert seconds_text(seconds).replace("\u202f", " ") == text


def test_points_have_a_sign_and_no_negative_zero():
    assert [points_text(v, 0.9) for v in (0.95, 0.9, 0.8999, 0.85, None)] == ["+5.0", "0.0", "0.0", "−5.0", "–"]


def test_lists():
    assert [list_text(words) for words in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-3, 1e6), count=st.integers(2, 8))
def test_ticks_are_even_and_inside(low, span, count):
    found = ticks(low, low + span, count)
    slack = 1e-6 * max(1.0, abs(low) + span)
    assert 1 <= len(found) <= 2 * count + 1
    assert all(low - slack <= tick <= low + span + slack for tick in found)


def test_log_ticks():
    assert log_ticks(0.08, 1.5) == [0.1, 0.2, 0.5, 1.0]
    assert log_ticks(1e-4, 10) == [1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0]


@given(st.lists(st.floats(0, 100), max_size=7).map(sorted))
def test_labels_are_moved_apart_in_order(places):
    moved = spread(places, 13.0, 0.0, 100.0)
    assert all(b - a >= 13.0 - 1e-9 for a, b in itertools.pairwise(moved))


@given(st.integers(1, 2000))
def test_thinned_keeps_the_ends(count):
    points = [(float(i), float(i % 7)) for i in range(count)]
    found = thinned(points, 240)
    assert len(found) <= 240 and found[0] == points[0] and found[-1] == points[-1]
    assert all(a[0] < b[0] for a, b in itertools.pairwise(found))
