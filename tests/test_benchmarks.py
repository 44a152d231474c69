"""Tables in the documentation are those that the benchmarks' results make; a benchmark's own measure holds."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_methods_page_prints_the_families_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])  # the script puts its folder there
    known = json.loads((ROOT / "benchmarks" / "results" / "families_transplant.json").read_text("utf-8"))
    table = runpy.run_path(str(ROOT / "benchmarks" / "families_transplant.py"))["table"]
    page = (ROOT / "docs" / "method.md").read_text("utf-8")
    printed = page.split("<!-- families-transplant:begin -->\n")[1].split("\n<!-- families-transplant:end -->")[0]
    assert printed == table(known)


@pytest.mark.slow
def test_the_digits_teacher_in_integers_loses_at_most_half_a_point() -> None:
    accuracy = runpy.run_path(str(ROOT / "benchmarks" / "passes.py"))["digits_accuracy"]()
    assert accuracy["float32"] > 0.98 and accuracy["int8"] >= accuracy["float32"] - 0.005


def test_the_search_benchmark_says_whether_debo_beats_the_papers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])  # the script puts its folder there
    summary = runpy.run_path(str(ROOT / "benchmarks" / "search" / "strategies.py"))["summary"]
    curves = {"debo": [[0.5, 0.3], [0.5, 0.2], [0.5, 0.4]], "debo-paper": [[0.5, 0.1], [0.5, 0.31], [0.5, 0.5]]}
    assert summary(curves)["median of debo better than debo-paper"] is True
    assert (
        summary(dict(zip(curves, reversed(curves.values()), strict=True)))["median of debo better than debo-paper"]
        is False
    )
