"""The hosts file of `coformerc rollout`: which board is where, and how its commands are run."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from coformer_runtime.errors import CoformerError
from coformer_targets.nearest import suggestion
from coformer_targets.toml import read_toml

SSH = "ssh -o BatchMode=yes -o ConnectTimeout=10 {host} coformer-node {quoted}"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Cluster(_Section):
    """`[[clusters]]`: boards that answer together, and therefore switch together."""

    name: str
    hosts: dict[str, str] = Field(description="device → what `{host}` stands for")


class Fleet(_Section):
    """The whole file."""

    root: str = Field(description="where the boards keep their releases")
    command: str = Field(default=SSH, description="runs `coformer-node` on a board")
    restart: str | None = Field(default=None, description="as of `coformer-node pull`")
    check: str | None = Field(default=None, description="as of `coformer-node pull`")
    checks: dict[str, str] = Field(default_factory=dict, description="device → its own `check`")
    probation_s: float = Field(default=60.0, gt=0, description="seconds until the checks succeed")
    limit_s: float = Field(default=7200.0, gt=0, description="seconds that one command may take on a board")
    at_once: int = Field(default=8, ge=1, description="boards that work at the same time")
    canary: str | None = Field(default=None, description="CLUSTER/DEVICE that goes first; the first of all left out")
    pull: list[str] = Field(default_factory=list, description="more options of `coformer-node pull`")
    clusters: list[Cluster] = Field(min_length=1)


class Board:
    """One board of the fleet: where its commands run."""

    def __init__(self, fleet: Fleet, cluster: Cluster, device: str) -> None:
        """`cluster` and `device` say which."""
        self._fleet, self.cluster, self.device, self.host = fleet, cluster.name, device, cluster.hosts[device]

    def __str__(self) -> str:
        return f"{self.cluster}/{self.device} ({self.host})"

    def run(self, *words: str) -> str:
        """Run `coformer-node WORDS` on the board and return what it printed.

        Raises:
            CoformerError: it failed, with the last line that it said.
        """
        command = self.command(list(words))
        mend = "mend it, then run the same command again; `command` of the hosts file says how boards are reached"
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=self._fleet.limit_s, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise CoformerError(f"no end within {self._fleet.limit_s:g} s", f"board {self}", mend) from error
        except OSError as error:
            raise CoformerError(f"`{command[0]}` cannot be run ({error.strerror})", f"board {self}", mend) from error
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines() or [f"exit code {done.returncode}"]
            asked = " ".join(words[:1] if words[0] == "pull" else words[:2])
            raise CoformerError(f"`{asked}`: {said[-1].removeprefix('error: ')}", f"board {self}", mend)
        return done.stdout.decode("utf-8", "replace")

    def command(self, words: list[str]) -> list[str]:
        """The local command: `{arguments}` becomes the words, `{quoted}` one text for a remote shell."""
        made: list[str] = []
        values = {
            "{host}": self.host,
            "{device}": self.device,
            "{cluster}": self.cluster,
            "{quoted}": shlex.join(words),
        }
        for part in shlex.split(self._fleet.command):
            if part == "{arguments}":
                made += words
                continue
            for name, value in values.items():
                part = part.replace(name, value)
            made.append(part)
        return made


def read_fleet(path: Path) -> tuple[Fleet, list[list[Board]]]:
    """The fleet, and its boards by cluster: the canary's cluster first, and the canary first in it.

    Raises:
        CoformerError: unreadable, an unknown key, a board named twice, or a canary that is not there.
    """
    where = f"hosts file {path}"
    try:
        fleet = Fleet.model_validate(read_toml(path, where))
    except ValidationError as error:
        raise _told(error.errors()[0], where) from error
    if "{arguments}" not in fleet.command and "{quoted}" not in fleet.command:
        mend = "write {quoted} for a remote shell such as ssh's, or {arguments} for words"
        raise CoformerError("'command' has no place for the arguments", where, mend)
    clusters = [[Board(fleet, cluster, device) for device in cluster.hosts] for cluster in fleet.clusters]
    names = [cluster.name for cluster in fleet.clusters]
    if len(set(names)) != len(names) or not all(clusters):
        raise CoformerError("a cluster is named twice or has no hosts", where, "give each a name and its hosts")
    for device in fleet.checks:
        devices = {board.device for boards in clusters for board in boards}
        if device not in devices:
            raise CoformerError(
                f"unknown device '{device}' in 'checks'", where, suggestion(device, devices, noun="device")
            )
    if fleet.canary is not None:
        known = [f"{board.cluster}/{board.device}" for boards in clusters for board in boards]
        if fleet.canary not in known:
            raise CoformerError(
                f"unknown canary '{fleet.canary}'", where, suggestion(fleet.canary, known, noun="board")
            )
        chosen, _, device = fleet.canary.partition("/")
        clusters.sort(key=lambda boards: boards[0].cluster != chosen)
        clusters[0].sort(key=lambda board: board.device != device)
    return fleet, clusters


def _told(first: Any, where: str) -> CoformerError:
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = list((Cluster if first["loc"][0] == "clusters" else Fleet).model_fields)
        return CoformerError(f"unknown key '{path}'", where, suggestion(str(first["loc"][-1]), known, noun="key"))
    if first["type"] == "missing":
        return CoformerError(f"the key '{path}' is missing", where, "add it")
    return CoformerError(f"'{path}' is refused", where, first["msg"].replace("Input should", "it should"))
