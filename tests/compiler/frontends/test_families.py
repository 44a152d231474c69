"""Every family passes every check; the documentation's table is the list of both."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.compiler.frontends.families import CHECKS, FAMILIES, table

PAGE = Path(__file__).parents[3] / "docs" / "families.md"
BEGIN, END = "<!-- families:begin -->\n", "\n<!-- families:end -->"


MARKS = {"ORT 1.10, Python 3.6": (pytest.mark.slow, pytest.mark.interpreters), "TensorRT-RTX parser": pytest.mark.slow}


@pytest.mark.parametrize("check", [pytest.param(name, marks=MARKS.get(name, ())) for name in CHECKS])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_family(family: str, check: str, tmp_path: Path) -> None:
    CHECKS[check](FAMILIES[family].make, tmp_path)


def test_the_documentation_prints_what_is_tested(request: pytest.FixtureRequest) -> None:
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    printed, after = rest.split(END)
    if request.config.getoption("--update-golden"):
        PAGE.write_text(before + BEGIN + table() + END + after, encoding="utf-8")
        return
    assert printed == table()
