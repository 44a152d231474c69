"""A kill and a full disk at every step of pull and activate: `current` is a whole release every single time."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Set

import pytest

from coformer_runtime.shipping import activate, pull
from tests.runtime.shipping.conftest import Shipped
from tests.runtime.shipping.releases import SOURCES

SCRIPT = Path(__file__).with_name("interrupted.py")
PULL, ACTIVATE, BACK = ({name for name, _ in table} for table in (pull.STEPS, activate.STEPS, activate.BACK))
WALKED: Dict[str, Set[str]] = {
    "install": PULL | ACTIVATE,
    "upgrade": PULL | ACTIVATE,
    "fail": PULL | (ACTIVATE - {"confirm", "keep", "collect"}) | BACK,
    "rollback": ACTIVATE - {"probation"},
}


def interrupted(shipped: Shipped, work: Path, *words: str, python: str = sys.executable, **more: Any) -> Dict[str, Any]:
    how, where, operation, *rest = words
    layout, key = shipped.layout.partition(":")[2], str(shipped.key.with_suffix(".pub"))
    command = [python, str(SCRIPT), how, where, operation, layout, key, str(work), *rest]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **more)
    assert done.returncode == 0, done.stderr
    found: Dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["valid"] == found["points"] == sum(found["steps"].values())
    return found


@pytest.mark.parametrize("operation", WALKED)
@pytest.mark.parametrize("how", ["kill", "full"])
def test_every_step(shipped: Shipped, tmp_path: Path, how: str, operation: str) -> None:
    found = interrupted(shipped, tmp_path, how, "steps", operation, env={"PYTHONPATH": SOURCES})
    assert set(found["steps"]) == WALKED[operation]


@pytest.mark.slow
@pytest.mark.parametrize("operation", WALKED)
@pytest.mark.parametrize("how", ["kill", "full"])
def test_every_call_that_changes_the_disk(shipped: Shipped, tmp_path: Path, how: str, operation: str) -> None:
    found = interrupted(shipped, tmp_path, how, "calls", operation, env={"PYTHONPATH": SOURCES})
    assert found["points"] > len(WALKED[operation])


@pytest.mark.slow
def test_every_step_with_the_real_self_test(shipped: Shipped, tmp_path: Path) -> None:
    found = interrupted(shipped, tmp_path, "kill", "steps", "upgrade", "self-test", env={"PYTHONPATH": SOURCES})
    assert set(found["steps"]) == WALKED["upgrade"]
