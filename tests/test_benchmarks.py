"""Tables in the documentation are those that the benchmarks' results make."""

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
