"""Every family passes every check; the documentation's table says which of them have been run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.compiler.frontends.families import CHECKS, FAMILIES, NOT_RUN, PASSED, outcomes_in, table

PAGE = Path(__file__).parents[3] / "docs" / "families.md"
BEGIN, END = "<!-- families:begin -->\n", "\n<!-- families:end -->"


MARKS = {"ORT 1.10, Python 3.6": (pytest.mark.slow, pytest.mark.interpreters), "TensorRT-RTX parser": pytest.mark.slow}
OUTCOMES: dict[tuple[str, str], str] = {}
"""What has been run by this process, and not skipped."""


@pytest.mark.parametrize("check", [pytest.param(name, marks=MARKS.get(name, ())) for name in CHECKS])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_family(family: str, check: str, tmp_path: Path) -> None:
    CHECKS[check](FAMILIES[family].make, tmp_path)
    OUTCOMES[family, check] = PASSED


def test_the_documentation_prints_what_has_been_run(request: pytest.FixtureRequest) -> None:
    """Its update prints what this run has seen: run all of this file for it, the slow ones too."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    printed, after = rest.split(END)
    if request.config.getoption("--update-golden"):
        PAGE.write_text(before + BEGIN + table(OUTCOMES) + END + after, encoding="utf-8")
        return
    told = outcomes_in(printed)
    assert printed == table(told)
    assert set(told) == {(family, check) for family in FAMILIES for check in CHECKS}
    assert set(told.values()) <= {PASSED, NOT_RUN}
    assert {cell: told[cell] for cell in OUTCOMES} == OUTCOMES
