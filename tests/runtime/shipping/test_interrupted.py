"""A kill and a full disk at every step of pull and activate: `current` is a whole release every single time."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Set

import pytest

from coformer_runtime.errors import CoformerError
from coformer_runtime.shipping import activate, pull
from coformer_runtime.shipping.root import Root
from tests.runtime.shipping.conftest import Shipped
from tests.runtime.shipping.releases import SOURCES, assert_valid, pulled

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


@pytest.mark.parametrize(
    "operation",
    ["upgrade", "rollback", *(pytest.param(name, marks=pytest.mark.slow) for name in ("install", "fail"))],
)
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


@pytest.mark.slow
def test_a_disk_that_is_really_full(shipped: Shipped, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = 0
    for pages in range(2, 16):
        size = "size={}k".format(4 * pages)
        mount = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(disk)]
        if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("no right to mount a small file system here")
        try:
            mounted += fills_up(shipped, Root(str(disk / "board")), disk)
        finally:
            subprocess.run(["umount", str(disk)], check=True)
    assert 2 < mounted < 14  # some sizes are too small, some are enough


def fills_up(shipped: Shipped, root: Root, disk: Path) -> bool:
    """Whether a disk of this size is too small for two releases; `current` is whole in either case."""
    installed, told = False, ""
    try:
        pulled(shipped.layout + ":one", root, shipped.key)
        activate.activate(root)
        installed = True
        pulled(shipped.layout + ":two", root, shipped.key)
        activate.activate(root)
    except CoformerError as error:
        told = error.what
    if not told:
        assert_valid(root, 2)
        return False
    assert told == "it cannot be written (No space left on device)" or " bytes are free, " in told
    assert_valid(root, *([1, 2] if installed else [1] if root.served() else []))
    return True
