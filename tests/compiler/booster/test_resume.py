"""A run that was stopped anywhere ends with the weights of one that was not, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from coformer_compiler.booster import BoosterOptions
from coformer_compiler.booster.boost import CHECKPOINT
from coformer_compiler.progress import SilentProgress, Stage
from coformer_runtime.errors import CoformerError
from tests.compiler.booster.small import small_boost, small_members, write_result

OPTIONS = BoosterOptions(
    steps=6,
    batch=40,
    joint_steps=6,
    checkpoint_every=2,
    weighting="samme-r",
    augmentation="shift",
    views=2,
    soft_targets=0.3,
    device="cpu",
)
ROOT = Path(__file__).parents[3]


class Killed(BaseException):
    """Stands in for a kill."""


class KillingProgress(SilentProgress):
    """Stops the run at the given number of reports."""

    def __init__(self, reports: int) -> None:
        self.left = reports
        self.notes: list[str] = []

    @contextmanager
    def stage(self, title: str, total: int | None = None, *, done: int = 0, unit: str = "") -> Iterator[Stage]:
        yield self

    def advance(self, amount: int = 1, figures: Mapping[str, float] | None = None) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed

    def note(self, text: str) -> None:
        self.notes.append(text)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    write_result(folder / "result", small_boost(folder / "work", OPTIONS))
    return files_of(folder / "result")


def test_equal_runs_give_equal_bytes(tmp_path: Path, uninterrupted: dict[str, bytes]) -> None:
    # Checkpoints at other steps: writing them must not change anything.
    write_result(tmp_path / "result", small_boost(tmp_path / "work", replace(OPTIONS, checkpoint_every=100)))
    assert files_of(tmp_path / "result") == uninterrupted


@pytest.mark.parametrize("every", [1, 5, 7])
def test_stopped_again_and_again(tmp_path: Path, uninterrupted: dict[str, bytes], every: int) -> None:
    # With a stop at every report, a phase goes on only because its last steps need no checkpoint: so 3 at least.
    stops = 0
    while True:
        try:
            result = small_boost(tmp_path / "work", OPTIONS, progress=KillingProgress(every + 3))
            break
        except Killed:
            stops += 1
            assert stops < 50, "no way ahead"
    assert stops >= 2
    write_result(tmp_path / "result", result)
    assert files_of(tmp_path / "result") == uninterrupted


def test_stopped_while_it_computes_in_half_precision(tmp_path: Path) -> None:
    options = replace(OPTIONS, half=True)
    write_result(tmp_path / "whole-result", small_boost(tmp_path / "whole", options))
    with pytest.raises(Killed):
        small_boost(tmp_path / "stopped", options, progress=KillingProgress(5))
    write_result(tmp_path / "stopped-result", small_boost(tmp_path / "stopped", options))
    assert files_of(tmp_path / "stopped-result") == files_of(tmp_path / "whole-result")


def test_a_finished_run_is_not_trained_again(tmp_path: Path, uninterrupted: dict[str, bytes]) -> None:
    small_boost(tmp_path / "work", OPTIONS)
    # Nothing is reported: no step is taken.
    write_result(tmp_path / "result", small_boost(tmp_path / "work", OPTIONS, progress=KillingProgress(0)))
    assert files_of(tmp_path / "result") == uninterrupted


def test_other_options_or_members_start_over(tmp_path: Path) -> None:
    small_boost(tmp_path, OPTIONS)
    with pytest.raises(Killed):
        small_boost(tmp_path, replace(OPTIONS, seed=1), progress=KillingProgress(0))
    with pytest.raises(Killed):
        small_boost(tmp_path, OPTIONS, small_members()[::-1], KillingProgress(0))


def test_resuming_is_said(tmp_path: Path) -> None:
    small_boost(tmp_path, OPTIONS)
    progress = KillingProgress(0)
    small_boost(tmp_path, replace(OPTIONS, checkpoint_every=3), progress=progress)
    assert progress.notes == [f"boost: resumed from {tmp_path / CHECKPOINT} (phase 5, step 0)"]


def test_a_broken_checkpoint_is_named(tmp_path: Path) -> None:
    small_boost(tmp_path, OPTIONS)
    checkpoint = tmp_path / CHECKPOINT
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(CoformerError, match="not a checkpoint of the booster") as failure:
        small_boost(tmp_path, OPTIONS)
    assert failure.value.where == str(checkpoint)
    assert failure.value.mend == "remove this file to start over"


def started(tmp_path: Path, name: str, options: BoosterOptions) -> subprocess.Popen[bytes]:
    arguments = [str(tmp_path / name), str(tmp_path / f"{name}-result"), json.dumps(asdict(options))]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.compiler.booster.small", *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=environment)


@pytest.mark.slow
def test_killed_processes(tmp_path: Path) -> None:
    options = replace(OPTIONS, steps=150, joint_steps=150, checkpoint_every=10)
    assert started(tmp_path, "whole", options).wait() == 0
    killed = 0
    for delay in (0.1, 0.4):
        process = started(tmp_path, "killed", options)
        checkpoint = tmp_path / "killed" / CHECKPOINT
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        while process.poll() is None and (not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before):
            time.sleep(0.01)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    assert killed == 2, "the machine is too fast for this test: raise the steps"
    assert started(tmp_path, "killed", options).wait() == 0
    assert files_of(tmp_path / "killed-result") == files_of(tmp_path / "whole-result")
