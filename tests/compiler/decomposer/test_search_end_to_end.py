"""`coformerc search` from the outside: measured devices, a kill, devices that nothing fits, and what it may reuse."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from coformer_compiler.artifact import Artifact, NotCached, Store
from coformer_compiler.config import Overrides, read_config
from coformer_compiler.data import load_data
from coformer_compiler.decomposer.search.journal import read_journal
from coformer_compiler.evaluator import recipe
from coformer_compiler.evaluator.compute import SHIPPED
from coformer_compiler.evaluator.latency import LatencyModel, Network
from coformer_compiler.frontends import import_model
from coformer_compiler.progress import SilentProgress
from coformer_compiler.stages import decompose
from tests.end_to_end.conftest import tiny
from tests.end_to_end.tiny import ROOT, TINY, coformerc, environment

__all__ = ["tiny"]

SEARCH = '\n[policy]\nstrategy = "random"\nbasis = "per-norm"\n[search]\niterations = {}\nsamples = 32\n'


def written(tiny: Path, folder: Path, text: str) -> Path:
    """A configuration beside the tiny teacher."""
    shutil.copy(tiny / "teacher.safetensors", folder)
    (folder / "tiny.toml").write_text(text)
    return folder / "tiny.toml"


@pytest.mark.slow
def test_measured_devices_are_searched_in_two_processes(tmp_path: Path) -> None:
    example = (ROOT / "examples" / "digits" / "digits.toml").read_text()
    model = example[example.index("[model]") : example.index("[data]")].replace(
        '"teacher.safetensors"', f'"{ROOT / "examples" / "digits" / "teacher.safetensors"}"'
    )
    predictor = SHIPPED / "cpu.safetensors"
    boards = "".join(
        f'[[devices]]\nname = "{name}"\ntarget = "cpu"\nmemory_mb = 512\npredictor = "{predictor}"\n'
        for name in ("attic", "hall")
    )
    path = tmp_path / "measured.toml"
    path.write_text(
        f'{model}\n[data]\nsource = "digits"\n[policy]\nstrategy = "debo"\nbasis = "per-norm"\n'
        f"[search]\niterations = 6\ninitial = 2\nbatch = 2\njobs = 2\nsamples = 64\n{boards}"
    )
    outcome = coformerc("search", path, "-o", tmp_path / "out", "--json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert (found["strategy"], found["evaluated"], found["estimated"]) == ("debo", 8, False)
    config = read_config(path, Overrides())
    latency = LatencyModel(import_model(config.model).spec, config.devices, Network())
    for entry in read_journal(tmp_path / "out" / "journal.jsonl"):
        assert entry.score.latency == latency.of_shapes(entry.shapes, shortcuts=True)


@pytest.mark.slow
def test_a_killed_search_goes_on_and_scores_nothing_twice(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = written(tiny, tmp_path, TINY + SEARCH.format(24)), tmp_path / "out"
    words = [sys.executable, "-m", "coformer_compiler", "search", str(config), "-o", str(out)]
    process = subprocess.Popen(words, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        kept = until_entries(out, 4, process)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    journal = next((out / "cache" / "search").glob("*.work/journal.jsonl"))
    kept = journal.read_text().splitlines(keepends=True)
    kept = [line for line in kept if line.endswith("\n")]
    assert float(journal.with_name("journal.jsonl.spent").read_text()) > 0

    scored = []
    score_one = recipe.score_one
    monkeypatch.setattr(recipe, "score_one", lambda *given: scored.append(given) or score_one(*given))
    outcome = coformerc("search", config, "-o", out, "--resume", "--json")
    assert outcome.code == 0, outcome.err
    lines = (out / "journal.jsonl").read_text().splitlines(keepends=True)
    assert lines[: len(kept)] == kept and len(lines) == 1 + 2 + 24
    assert len(scored) == len(lines) - len(kept), "what the journal has is not scored again"
    assert json.loads(outcome.out)["evaluated"] == 26

    whole = coformerc("search", config, "-o", tmp_path / "whole", "--json")
    assert json.loads(whole.out)["picked"] == json.loads(outcome.out)["picked"], "the same as without the kill"


def until_entries(out: Path, count: int, process: subprocess.Popen[bytes]) -> list[str]:
    """Wait for so many evaluations in the journal of the search that runs."""
    for _ in range(2400):
        for journal in (out / "cache" / "search").glob("*.work/journal.jsonl"):
            if len(lines := journal.read_text().splitlines()) > count:
                return lines
        assert process.poll() is None, "it ended by itself"
        time.sleep(0.05)
    raise AssertionError("no evaluations")


def test_nothing_is_resumed_where_nothing_began(tiny: Path, tmp_path: Path) -> None:
    outcome = coformerc("search", written(tiny, tmp_path, TINY + SEARCH.format(2)), "-o", tmp_path / "o", "--resume")
    assert outcome.code != 0
    assert "there is nothing to resume" in outcome.err and "leave --resume away to begin" in outcome.err


@pytest.mark.parametrize("command", ["search", "build"])
def test_devices_that_nothing_fits_are_refused_before_calibration(tiny: Path, tmp_path: Path, command: str) -> None:
    text = (TINY + SEARCH.format(2) + "drop = false\n").replace("memory_mb = 512", "memory_mb = 60")
    text = text.replace('name = "hall"', 'name = "hall"\nmax_gflop = 1e-7').replace(
        'name = "desk"', 'name = "desk"\ndeadline_ms = 1e-3'
    )
    outcome = coformerc(command, written(tiny, tmp_path, text), "-o", tmp_path / "out")
    assert outcome.code != 0
    told = " ".join(outcome.err.split())
    assert re.search(
        r"not even the smallest member fits; short are C6 of 'attic' by \S+ MB of memory, C5 of 'hall' by \S+ GFLOP of "
        r"work per inference, deadline of 'desk' by \S+ ms until its features arrive, estimated",
        told,
    ), told
    relax = re.findall(r"(memory_mb|max_gflop|deadline_ms) of '(\w+)' to ([\d.e-]+)", told)
    assert [(key, name) for key, name, _ in relax] == [
        ("memory_mb", "attic"),
        ("max_gflop", "hall"),
        ("deadline_ms", "desk"),
    ]
    assert not (tmp_path / "out" / "cache" / "calibrate").exists()


class _Keys(Store):
    """Tells what a stage's result hangs on, in place of running it."""

    def stage(self, kind: str, parents: Sequence[Artifact], options: Mapping[str, Any], *_: Any, **__: Any) -> Artifact:
        raise NotCached(json.dumps([kind, [parent.sha256 for parent in parents], options], sort_keys=True))


def key_of(config: Path) -> str:
    """What the search stage of a configuration is known by."""
    read = read_config(config, Overrides())
    data = load_data("digits", image_size=(8, 8), channels=1, seed=0, calibration=64)
    parents = [Artifact(kind, config.parent, kind, ()) for kind in ("import", "calibrate")]
    teacher = import_model(read.model)
    with pytest.raises(NotCached) as caught:
        decompose.search_policies(_Keys(config.parent, SilentProgress()), parents, teacher, data, read)
    return caught.value.kind


def test_a_search_is_not_reused_for_a_device_of_another_kind(tiny: Path, tmp_path: Path) -> None:
    """Precision, alignment and the runtime's own memory decide what fits; where a figure is from decides nothing."""
    cpu = (ROOT / "targets" / "coformer_targets" / "devices" / "cpu.toml").read_text()
    board = tmp_path / "board.toml"
    board.write_text(cpu)
    text = (TINY + SEARCH.format(2)).replace(
        'name = "attic"\ntarget = "cpu"', f'name = "attic"\ntarget_file = "{board}"'
    )
    config = written(tiny, tmp_path, text)
    key = key_of(config)
    assert key_of(config) == key
    board.write_text(cpu.replace('power_w = "an assumption', 'power_w = "a guess'))
    assert key_of(config) == key
    for before, after in (
        ("alignment = 8", "alignment = 16"),
        ("runtime_mb = 67", "runtime_mb = 90"),
        ("power_w = 65", "power_w = 15"),
    ):
        assert before in cpu
        board.write_text(cpu.replace(before, after))
        assert key_of(config) != key, after
    board.write_text(cpu)
    config.write_text(text.replace('name = "attic"', 'name = "attic"\nprecision = "int8"'))
    assert key_of(config) != key
