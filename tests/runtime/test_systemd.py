"""The unit files of runtime/systemd: their commands are ones that `coformer-node` takes, what they promise holds."""

import configparser
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import List

import pytest

from coformer_runtime.cli import parser
from coformer_runtime.security import Security, parse_address

UNITS = sorted((Path(__file__).parents[2] / "runtime" / "systemd").glob("*.service"))
COMMANDS = {"coformer-central": "central", "coformer-worker": "serve"}
HARDENING = {
    "User": "coformer",
    "Group": "coformer",
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "CapabilityBoundingSet": "",
    "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
    "StateDirectory": "coformer",
}
each_unit = pytest.mark.parametrize("path", UNITS, ids=[path.stem for path in UNITS])


class UnitParser(configparser.ConfigParser):
    """Keys of systemd have capital letters."""

    def optionxform(self, optionstr: str) -> str:
        return optionstr


def unit(path: Path) -> configparser.ConfigParser:
    """Return a unit's sections; a key that comes twice, or a line that is none, is an error here."""
    read = UnitParser(interpolation=None, comment_prefixes=("#",))
    read.read_string(path.read_text())
    return read


def example_options(path: Path) -> List[str]:
    """Return the words of the OPTIONS that a unit's comment has for an example."""
    found = re.findall(r"^#   OPTIONS=(.*)$", path.read_text(), re.MULTILINE)
    assert len(found) == 1
    return shlex.split(found[0])


def words_of(command: str, path: Path) -> List[str]:
    """Return what `coformer-node` is given by a command, with the example's options."""
    words = shlex.split(command.lstrip("-+"))
    assert words[:2] == ["/usr/bin/env", "coformer-node"]
    given: List[str] = []
    for word in words[2:]:
        given += example_options(path) if word == "$OPTIONS" else [word]
    return given


def test_there_is_a_unit_for_each_node() -> None:
    assert [path.stem for path in UNITS] == sorted(COMMANDS)


@each_unit
def test_its_commands_are_ones_that_the_program_takes(path: Path) -> None:
    service = unit(path)["Service"]
    options = parser().parse_args(words_of(service["ExecStart"], path))
    assert options.command == COMMANDS[path.stem]
    assert options.bundle == "/var/lib/coformer/current" and options.tls == "/etc/coformer/tls"
    assert not options.allow_root and not options.insecure
    assert not options.exit_with_stdin  # which is /dev/null there
    for address in (options.listen, options.metrics):  # what is refused of the program is refused of the example
        if address is not None:
            security = Security(False, None) if address == options.metrics else Security(True)
            assert parse_address(address, security, "example")[1] > 0
    before = parser().parse_args(words_of(service["ExecStartPre"], path))
    assert (before.command, before.root) == ("release", "/var/lib/coformer")
    assert service["ExecStartPre"].startswith("-+")  # as root: what it mends belongs to whoever pulls


@each_unit
def test_it_runs_as_a_user_of_its_own_with_few_rights(path: Path) -> None:
    service = unit(path)["Service"]
    assert {key: service.get(key) for key in HARDENING} == HARDENING
    assert service["Restart"] == "always" and float(service["RestartSec"]) <= 1
    assert service["EnvironmentFile"] == "/etc/coformer/{}.conf".format(path.stem.replace("coformer-", ""))
    assert path.read_text().count(service["EnvironmentFile"]) == 2  # the comment says where to write it


@each_unit
def test_it_waits_for_the_network_and_starts_with_the_machine(path: Path) -> None:
    read = unit(path)
    assert read["Unit"]["Wants"] == read["Unit"]["After"] == "network-online.target"
    assert read["Install"]["WantedBy"] == "multi-user.target"
    assert "systemctl enable --now {}".format(path.stem) in path.read_text()


@each_unit
def test_systemd_itself_finds_no_fault(path: Path) -> None:
    """Where it is installed; what it says of a user that is not there yet does not count."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze on this machine")
    done = subprocess.run([program, "verify", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    said = done.stderr.decode("utf-8", "replace").splitlines()
    assert [line for line in said if path.name in line and "coformer.conf" not in line] == []
