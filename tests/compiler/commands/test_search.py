"""`coformerc search`, on the smallest build."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from coformer_compiler.compile import plan
from coformer_compiler.config import Overrides, read_config
from coformer_compiler.progress import SilentProgress
from tests.end_to_end.conftest import tiny
from tests.end_to_end.tiny import SEARCH, TINY, coformerc

__all__ = ["tiny"]


@pytest.fixture
def config(tiny: Path, tmp_path: Path) -> Path:
    """A short search for tiny.toml's devices."""
    shutil.copy(tiny / "teacher.safetensors", tmp_path)
    path = tmp_path / "tiny.toml"
    path.write_text(TINY + SEARCH)
    return path


@pytest.mark.slow
def test_a_search_leaves_policy_journal_and_what_a_build_needs(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = coformerc("search", config, "-o", out, "--json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert (found["strategy"], found["evaluated"], found["estimated"]) == ("random", 5, True)
    assert found["picked"]["objective"] == min(row["objective"] for row in [*found["front"], found["picked"]])
    assert "search space: 100% fits as drawn" in outcome.err
    policy = json.loads((out / "policy.json").read_text())
    kept = [member["device"] for member in found["picked"]["members"]]
    assert [member["device"] for member in policy["members"]] == kept
    assert len((out / "journal.jsonl").read_text().splitlines()) == 1 + 5
    stages = plan(read_config(config, Overrides()), out, SilentProgress())
    assert [stage for stage, cached in stages.items() if cached] == ["import", "calibrate", "decompose"]

    table = coformerc("search", config, "-o", out).out
    assert table.startswith(
        "random: 5 policies; 100% of the space fits as drawn, 100% after shrinking\n\nbeaten by none"
    )
    heads = "  number objective loss, nats  ms, est.  mJ, est.  layers x embed"
    assert heads in table.splitlines() and "in_place_of" in found and found["in_place_of"] is None
    marked = [line for line in table.splitlines() if line.startswith(">")]
    assert len(marked) == 2 and marked[0].split()[1] == str(found["picked"]["number"])
    assert [row["number"] for row in found["front"] if row["picked"]] in ([], [found["picked"]["number"]])
    first = found["front"][0]
    assert max(m["arrival_ms"] for m in first["members"]) <= first["latency_ms"]
    elsewhere = tmp_path / "elsewhere"
    again = coformerc("search", config, "-o", elsewhere, "--journal", out / "journal.jsonl", "--json")
    assert json.loads(again.out)["picked"] == found["picked"]


@pytest.mark.slow
def test_a_journal_of_another_model_is_refused(config: Path, tmp_path: Path) -> None:
    assert coformerc("search", config, "-o", tmp_path / "out").code == 0
    other = tmp_path / "other.toml"
    other.write_text(config.read_text().replace('checkpoint = "teacher.safetensors"', 'weights = "random"'))
    outcome = coformerc("search", other, "-o", tmp_path / "new", "--journal", tmp_path / "out" / "journal.jsonl")
    assert outcome.code != 0
    assert "its evaluations are of another model" in outcome.err


@pytest.mark.slow
def test_a_configuration_without_a_search_is_searched_by_debo(config: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.toml"
    limited = TINY.replace("memory_mb = 512", "memory_mb = 512\nmax_gflop = 1e-5")
    plain.write_text(limited + '[policy]\nbasis = "per-norm"\n[search]\niterations = 3\nsamples = 32\n')
    outcome = coformerc("search", plain, "-o", tmp_path / "out", "--bandwidths", "1,1000")
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("debo: 5 policies; ")
    assert (
        "strategy 'proportional' evaluates nothing, so 'debo' searched; `coformerc build --strategy debo`"
        in outcome.out
    )
    assert "break C5 of 'attic'" in outcome.out and "\nnote: 'attic' " in outcome.out
    found = json.loads(coformerc("search", plain, "-o", tmp_path / "out", "--json").out)
    assert (found["strategy"], found["in_place_of"]) == ("debo", "proportional")
    attic = [m for m in found["picked"]["members"] if m["device"] == "attic"]
    assert found["notes"] == ["'attic' was shrunk until C5 held" if attic else found["notes"][0]]


def test_a_strategy_that_evaluates_nothing_is_refused(config: Path, tmp_path: Path) -> None:
    outcome = coformerc("search", config, "-o", tmp_path / "out", "--strategy", "uniform")
    assert outcome.code != 0
    assert "the strategy 'uniform' evaluates nothing; choose one of debo, debo-paper, optuna-gp, random" in outcome.err


def test_a_journal_that_is_not_there_is_named(config: Path, tmp_path: Path) -> None:
    outcome = coformerc("search", config, "-o", tmp_path / "out", "--journal", tmp_path / "no.jsonl")
    assert outcome.code != 0
    assert "there is no such file" in outcome.err
