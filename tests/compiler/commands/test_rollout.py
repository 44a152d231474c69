"""`coformerc rollout` on boards that are folders of this machine: whole clusters or nothing, in the right order."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from coformer_compiler.commands.rollout import roll_out
from coformer_runtime.bundle import open_bundle
from coformer_runtime.errors import CheckFailed, CoformerError
from coformer_runtime.shipping.root import Root
from tests.runtime.shipping.releases import environment, make_build, make_keys, pushed

BOARD = """\
import os, sys
from coformer_runtime.shipping import activate, pull
pull.self_test = lambda *words: None  # it has tests of its own
activate._PAUSE_S = 0.0
host, words = sys.argv[1], sys.argv[2:]
with open({log!r}, "a") as log:
    log.write(host + " " + " ".join(each for each in words[:2] if ":" not in each) + "\\n")
if os.path.exists(os.path.join({folder!r}, "lost-" + host + "-" + words[1])):
    sys.exit("no route to host")
from coformer_runtime.cli import main
sys.exit(main([each.replace("ROOT", os.path.join({folder!r}, host)) for each in words]))
"""
HOSTS = """\
root = "ROOT"
command = "{python} {script} {{host}} {{arguments}}"
check = "true"
probation_s = 0.001
at_once = 1
checks = {{desk = "{python} {check}"}}
pull = ["--key", {key!r}]
canary = "south/hall"

[[clusters]]
name = "north"
[clusters.hosts]
attic = "n-attic"
hall = "n-hall"
desk = "n-desk"

[[clusters]]
name = "south"
[clusters.hosts]
attic = "s-attic"
hall = "s-hall"
desk = "s-desk"
"""


class Fleet:
    """Six boards, a registry folder with versions 1 and 2."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log, self.hosts = folder, folder / "log", folder / "hosts.toml"
        self.key = make_keys(folder)
        script = folder / "board.py"
        script.write_text(BOARD.format(log=str(self.log), folder=str(folder)))
        check = folder / "check.py"
        check.write_text(f"import os, sys; sys.exit(os.path.exists({str(folder / 'sick')!r}))")
        public = str(self.key.with_suffix(".pub"))
        self.hosts.write_text(HOSTS.format(python=sys.executable, script=script, check=check, key=public))
        self.layout = f"oci-layout:{folder / 'layout'}"
        for version in (1, 2):
            out = make_build(folder / f"build{version}", str(version) * 64)
            pushed(out, f"{self.layout}:v{version}", self.key, version, now=time.time())

    def roll_out(self, version: int) -> list[str]:
        """The commands that it took, host and words."""
        self.log.write_text("")
        roll_out(f"{self.layout}:v{version}", self.hosts, [self.key.with_suffix(".pub")], lambda text: None)
        return self.log.read_text().splitlines()

    def versions(self) -> dict[str, int]:
        found = {}
        for host in ("n-attic", "n-hall", "n-desk", "s-attic", "s-hall", "s-desk"):
            root = Root(str(self.folder / host))
            record = root.served()
            if record is not None:
                open_bundle(root.at("current"))
                assert root.journal() is None
                found[host] = record.version
        return found


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    return Fleet(tmp_path)


ALL = ("n-attic", "n-hall", "n-desk", "s-attic", "s-hall", "s-desk")


@pytest.mark.slow
def test_the_order_and_a_sick_release(fleet: Fleet) -> None:
    commands = fleet.roll_out(1)
    south = ["s-hall", "s-attic", "s-desk"]  # the canary first
    assert commands[0] == "s-hall pull"
    assert commands[1:13] == [
        *(f"{host} pull" for host in south),
        *(f"{host} release {word}" for word in ("activate", "check", "confirm") for host in south),
    ]
    assert [line[0] for line in commands[13:]] == ["n"] * 12
    assert fleet.versions() == dict.fromkeys(ALL, 1)
    (fleet.folder / "sick").write_text("")
    with pytest.raises(CheckFailed) as caught:
        fleet.roll_out(2)
    assert "did not succeed 3 times in a row within 0.001 s" in caught.value.what
    assert (
        "the rollout of version 2 stopped, every cluster that was switched serves its release of" in caught.value.what
    )
    assert caught.value.where == "board south/desk (s-desk)"
    assert fleet.versions() == dict.fromkeys(ALL, 1)


@pytest.mark.slow
@pytest.mark.parametrize(("host", "word"), [("n-desk", "activate"), ("n-hall", "confirm")])
def test_a_board_is_lost_in_the_last_cluster(fleet: Fleet, host: str, word: str) -> None:
    fleet.roll_out(1)
    (fleet.folder / f"lost-{host}-{word}").write_text("")
    with pytest.raises(CheckFailed, match="no route to host; the rollout of version 2 stopped, every cluster"):
        fleet.roll_out(2)
    assert fleet.versions() == dict.fromkeys(ALL, 1)
    (fleet.folder / f"lost-{host}-{word}").unlink()
    fleet.roll_out(2)
    assert fleet.versions() == dict.fromkeys(ALL, 2)


def test_the_canary_cannot_take_it(fleet: Fleet) -> None:
    (fleet.folder / "s-hall").write_text("no folder can be made here")
    with pytest.raises(CoformerError) as caught:
        fleet.roll_out(1)
    assert caught.value.where == "board south/hall (s-hall)" and caught.value.what.startswith("`pull`: ")
    assert "it cannot be written (Not a directory); make" in caught.value.what
    assert fleet.log.read_text() == "s-hall pull\n"
    assert not (fleet.folder / "s-attic").exists()


@pytest.mark.slow
def test_a_board_that_cannot_be_rolled_back_is_named(fleet: Fleet) -> None:
    fleet.roll_out(1)
    (fleet.folder / "sick").write_text("")
    (fleet.folder / "lost-s-attic-rollback").write_text("")
    with pytest.raises(
        CheckFailed, match=r"stopped, not rolled back: south/attic \(s-attic\): `release rollback`: no rout"
    ):
        fleet.roll_out(2)


@pytest.mark.parametrize(
    ("change", "what", "mend"),
    [
        (("probation_s", "probation"), "unknown key 'probation'", "did you mean the key 'probation_s'?"),
        (('root = "ROOT"\n', ""), "the key 'root' is missing", "add it"),
        ((" {arguments}", ""), "'command' has no place for the arguments", "write {quoted} for a remote shell"),
        (("south/hall", "south/hal"), "unknown canary 'south/hal'", "did you mean the board 'south/hall'?"),
        (
            ('desk = "s-desk"', ""),
            "cluster 'south': no host for 'desk'",
            "name exactly the release's devices: attic, desk",
        ),
        (('desk = "s-desk"', 'porch = "p"'), "cluster 'south': no host for 'desk', 'porch' is not in", "name exactly"),
        (
            ("checks = {desk", "checks = {hal = 'true', desk"),
            "unknown device 'hal' in 'checks'",
            "did you mean the device 'hall'?",
        ),
        (('name = "south"', 'name = "north"'), "a cluster is named twice or has no hosts", "give each a name"),
        (("at_once = 1", "at_once = 0"), "'at_once' is refused", "it should be greater than or equal to 1"),
    ],
)
def test_mistakes_in_the_hosts_file(fleet: Fleet, change: tuple[str, str], what: str, mend: str) -> None:
    text = fleet.hosts.read_text()
    assert change[0] in text
    fleet.hosts.write_text(text.replace(*change, 1))
    with pytest.raises(CoformerError) as caught:
        fleet.roll_out(1)
    assert caught.value.what.startswith(what) and caught.value.mend.startswith(mend)
    assert caught.value.where == f"hosts file {fleet.hosts}" and not fleet.log.read_text()


def test_ssh(tmp_path: Path) -> None:
    from coformer_compiler.commands.fleet import read_fleet

    path = tmp_path / "hosts.toml"
    path.write_text('root = "releases"\n[[clusters]]\nname = "c"\nhosts = {attic = "attic.example"}\n')
    board = read_fleet(path)[1][0][0]
    assert board.command(["pull", "--check", "a b"]) == [
        "ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "attic.example", "coformer-node", "pull --check 'a b'",
    ]  # fmt: skip
