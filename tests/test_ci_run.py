"""What `.ci/run` asks of a machine: it tries for what only some tests need, and goes on without it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

RUN = Path(__file__).parents[1] / ".ci" / "run"
REAL = ("bash", "dirname")
PRESENT = ("cmake", "g++", "git", "python3")


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder of programs that only note how they were called; `apt-get` has no docker-registry."""
    if os.geteuid() != 0:
        pytest.skip("apt-get is only called as root")
    folder, log = tmp_path / "bin", tmp_path / "calls"
    folder.mkdir()
    for name in REAL:
        (folder / name).symlink_to(shutil.which(name) or name)
    for name in (*PRESENT, "make", "apt-get", "ldconfig"):
        program = folder / name
        program.write_text(f'#!/bin/bash\necho "{name} $*" >> {log}\n')
        program.chmod(0o755)
    (folder / "apt-get").write_text((folder / "apt-get").read_text() + '[[ "$*" != *docker-registry* ]]\n')
    return tmp_path


def run(machine: Path) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    done = subprocess.run([RUN], env={"PATH": str(machine / "bin")}, capture_output=True, text=True, check=False)
    return done, (machine / "calls").read_text().splitlines()


def test_what_tests_ask_for_is_tried_and_not_insisted_on(machine: Path) -> None:
    done, calls = run(machine)
    assert done.returncode == 0, done.stderr
    installed = [call.split()[-1] for call in calls if call.startswith("apt-get install")]
    assert installed == ["libb64-0d", "docker-registry", "chromium"]
    assert done.stderr == "not to be had here: docker-registry\n"
    assert [call for call in calls if call.startswith("make")] == ["make demo", "make --keep-going check"]


def test_what_is_there_is_not_asked_for(machine: Path) -> None:
    for name in ("docker-registry", "google-chrome"):
        shutil.copy(machine / "bin" / "git", machine / "bin" / name)
    ldconfig = machine / "bin" / "ldconfig"
    ldconfig.write_text("#!/bin/bash\nfor n in {1..9999}; do echo libb64.so.0d; done\n")
    done, calls = run(machine)
    assert done.returncode == 0, done.stderr
    assert not [call for call in calls if call.startswith("apt-get")]
