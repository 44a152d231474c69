"""Switching, probation, holding, rolling back, recovering, and what garbage collection keeps."""

import errno
import os
import sys
from pathlib import Path

import pytest

from coformer_runtime.errors import CheckFailed, CoformerError
from coformer_runtime.shipping.activate import Probation, activate, check, confirm, recover, roll_back
from coformer_runtime.shipping.root import CURRENT, NEXT, PREVIOUS, Root
from tests.runtime.shipping.conftest import Shipped
from tests.runtime.shipping.releases import assert_valid, node, pulled, pushed, quickly


@pytest.fixture
def root(shipped: Shipped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Root:
    """Version 1 is served, version 2 fetched. The self-test has tests of its own."""
    monkeypatch.setattr("coformer_runtime.shipping.pull.self_test", lambda *words: None)
    made = Root(str(tmp_path / "board"))
    pulled(shipped.layout + ":one", made, shipped.key)
    activate(made)
    pulled(shipped.layout + ":two", made, shipped.key)
    return made


def versions(root: Root) -> "dict[str, int]":
    links = {name: root.link(name) for name in (CURRENT, PREVIOUS, NEXT)}
    return {name: root.record(release).version for name, release in links.items() if release}


def script(tmp_path: Path, text: str) -> str:
    """A command that runs some Python."""
    (tmp_path / "script.py").write_text(text)
    return "'{}' '{}'".format(sys.executable, tmp_path / "script.py")


def test_upgrade_and_back(root: Root) -> None:
    assert versions(root) == {"current": 1, "next": 2}
    activate(root)
    assert versions(root) == {"current": 2, "previous": 1, "next": 2} and root.journal() is None
    roll_back(root)
    assert versions(root) == {"current": 1, "previous": 2, "next": 2}
    assert_valid(root, 1)


def test_rolling_back_a_version_twice_is_rolling_back_once(root: Root) -> None:
    activate(root)
    for _ in range(2):
        found = roll_back(root, version=2)
        assert found is not None and found.version == 1


def test_the_checks_must_succeed_in_a_row(root: Root, tmp_path: Path) -> None:
    log = tmp_path / "log"
    text = (
        "import os, sys\npath = {!r}\n"
        "count = os.path.getsize(path) if os.path.exists(path) else 0\n"
        "open(path, 'a').write('x')\n"
        "sys.exit(count in (0, 2))\n"
    ).format(str(log))
    activate(root, probation=Probation(check=script(tmp_path, text), limit_s=60.0, sleep=quickly))
    assert len(log.read_text()) == 6  # bad, good, bad, good, good, good
    assert_valid(root, 2)


def test_a_release_that_does_not_prove_well(root: Root, tmp_path: Path) -> None:
    restarts = tmp_path / "restarts"
    restart = script(tmp_path, "open({!r}, 'a').write('x')".format(str(restarts)))
    with pytest.raises(CheckFailed) as caught:
        activate(root, probation=Probation(restart, "false", 0.0, quickly))
    one, two = sorted(record.id for record in root.releases())
    assert caught.value.what == (
        "release '{}' was rolled back, '{}' is served again: `false` did not succeed 3 times in a row within 0 s: "
        "exit code 1".format(two, one)
    )
    assert restarts.read_text() == "xx"  # forward and back
    assert versions(root) == {"current": 1, "next": 2} and root.journal() is None


def test_a_release_that_did_not_prove_well_is_not_tried_again(shipped: Shipped, root: Root) -> None:
    with pytest.raises(CheckFailed, match="was rolled back"):
        activate(root, probation=Probation(check="false", limit_s=0.0, sleep=quickly))
    with pytest.raises(CheckFailed) as caught:
        pulled(shipped.layout + ":two", root, shipped.key)
    assert caught.value.what == (
        "version 2 was tried here and rolled back: `false` did not succeed 3 times in a row within 0 s: exit code 1"
    )
    assert caught.value.mend == "push a mended one with a higher version, or pass --retry"
    assert node("release", "list", "--root", root.path).stdout.count("[next, rolled back]") == 1
    pulled(shipped.layout + ":one", root, shipped.key)  # what is served is not in doubt
    assert pulled(shipped.layout + ":two", root, shipped.key, retry=True).present
    activate(root, probation=Probation(check="true", sleep=quickly))
    assert root.refused() == {}
    assert pulled(shipped.layout + ":two", root, shipped.key).present


def test_a_full_disk_does_not_keep_a_board_from_going_back(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(release: str, reason: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(root, "refuse", full)
    with pytest.raises(CheckFailed, match=r"exit code 1; that could not be noted \(No space left on device\)"):
        activate(root, probation=Probation(check="false", limit_s=0.0, sleep=quickly))
    assert_valid(root, 1)


def test_a_node_that_does_not_start(root: Root, tmp_path: Path) -> None:
    restart = script(tmp_path, "import sys; sys.exit('no such unit')")
    with pytest.raises(CheckFailed, match=r"is served again: `.*` failed: no such unit; and then"):
        activate(root, probation=Probation(restart))
    assert_valid(root, 1)
    with pytest.raises(CheckFailed, match=r"`nowhere/x` failed: No such file or directory"):
        activate(root, probation=Probation("nowhere/x"))
    assert_valid(root, 1)


def test_the_first_release_of_all_fails(shipped: Shipped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coformer_runtime.shipping.pull.self_test", lambda *words: None)
    root = Root(str(tmp_path / "new"))
    with pytest.raises(CoformerError, match="nothing was fetched to be activated; run `coformer-node pull` first"):
        activate(root)
    pulled(shipped.layout + ":one", root, shipped.key)
    with pytest.raises(CheckFailed, match="was rolled back, nothing is served"):
        activate(root, probation=Probation(check="false", limit_s=0.0))
    assert root.served() is None and not os.path.lexists(root.at(CURRENT))
    with pytest.raises(CoformerError, match="there is no release to go back to; pull one"):
        roll_back(root)


def test_hold_and_confirm(root: Root) -> None:
    activate(root, hold=True)
    assert versions(root) == {"current": 2, "next": 2}
    check(root, 2, Probation(check="true", sleep=quickly))
    with pytest.raises(CheckFailed, match="it serves version 2, not version 1; activate it again"):
        check(root, 1, Probation())
    confirm(root)
    confirm(root)
    assert versions(root) == {"current": 2, "previous": 1, "next": 2} and root.journal() is None


@pytest.mark.parametrize("way", [recover, roll_back])
def test_hold_and_go_back(root: Root, way: "object") -> None:
    activate(root, hold=True)
    way(root)  # type: ignore[operator]
    assert versions(root) == {"current": 1, "next": 2} and root.journal() is None


def test_recover_leaves_an_activation_at_work_alone(root: Root) -> None:
    activate(root, hold=True)
    with root.locked():
        done = node("release", "recover", "--root", root.path)
    assert done.returncode == 0 and done.stdout.endswith("flowers 2 is served, an activation is at work\n")
    assert root.journal() is not None


def test_nothing_to_recover(tmp_path: Path) -> None:
    assert recover(Root(str(tmp_path / "none"))) is None
    assert not (tmp_path / "none").exists()


def test_a_release_that_rotted_is_not_served(root: Root) -> None:
    path = Path(root.folder(root.link(NEXT) or ""), "member.onnx")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CoformerError, match=r"'member.onnx' has [\d,]+ bytes, the manifest says"):
        activate(root)
    assert_valid(root, 1)


def test_garbage_collection(shipped: Shipped, root: Root, tmp_path: Path) -> None:
    one, two = sorted(record.id for record in root.releases())
    activate(root)
    for version, tag in ((3, "three"), (4, "four"), (5, "five")):
        pushed(shipped.one, "oci-layout:{}:{}".format(tmp_path / "usb", tag), shipped.key, version)
        pulled("oci-layout:{}:{}".format(tmp_path / "usb", tag), root, shipped.key)
        if version == 3:
            root.pin(two)
        activate(root)
    left = [record.version for record in root.releases()]
    assert left == [5, 4, 2]  # current, previous, pinned
    with pytest.raises(
        CoformerError, match=r"there is no release '{}' \(there: 5-\w+, 4-\w+, 2-\w+\); pull it".format(one)
    ):
        activate(root, one)
    root.unpin(two)
    assert root.collect() == [two]
    with pytest.raises(CoformerError, match="is not pinned"):
        root.unpin(two)


def test_a_serving_node_is_not_confused_by_a_switch(root: Root) -> None:
    from coformer_runtime.bundle import open_bundle

    bundle = open_bundle(root.at(CURRENT))
    activate(root)
    assert bundle.manifest.build == "1" * 64
    assert Path(bundle.file("manifest.json")).read_text().count("1" * 64) == 1
    assert bundle.engines_dir == root.at(".coformer-engines")
