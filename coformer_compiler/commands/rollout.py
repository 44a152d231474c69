"""`coformerc rollout`: a release onto a fleet, cluster after cluster, each of them whole or not at all.

    canary board: fetch, test  →  per cluster: fetch, test everywhere → switch everywhere → check → confirm
    any failure → stop, and roll back every cluster that this rollout has switched

A board alone cannot serve another build than the rest of its cluster, so what the canary board shows alone is that
the release arrives, is signed, and passes its golden vectors on the real engine; its cluster then shows the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from coformer_compiler.commands.fleet import Board, Fleet, read_fleet
from coformer_runtime.errors import CheckFailed, CoformerError
from coformer_runtime.shipping.commands import trusted_keys
from coformer_runtime.shipping.http import HttpOptions
from coformer_runtime.shipping.pull import read_release
from coformer_runtime.shipping.reference import parse_reference
from coformer_runtime.shipping.statement import Release
from coformer_runtime.shipping.stores import open_store


def roll_out(
    text: str,
    hosts: Path,
    keys: Sequence[Path],
    say: Callable[[str], None],
    *,
    allow_unsigned: bool = False,
    http: HttpOptions = HttpOptions(),  # noqa: B008
) -> dict[str, Any]:
    """Bring the release `text` onto all boards of a hosts file; returns what was switched as JSON values.

    The tag is looked up once, here; the boards are sent the digest, so that all of them get the same release.

    Raises:
        CoformerError: the release, the hosts file or a board is not as it should be; nothing was switched.
        CheckFailed: a cluster did not prove well; what was switched was rolled back, or the error says where not.
    """
    fleet, clusters = read_fleet(hosts)
    reference = parse_reference(text)
    with open_store(reference, http) as store:
        release, _, digest = read_release(
            store, reference, trusted_keys([str(key) for key in keys], None), allow_unsigned
        )
    _check_devices(release, clusters, hosts)
    rollout = _Rollout(fleet, release, str(reference._replace(digest=digest)), say)
    canary = clusters[0][0]
    say(f"canary {canary}: fetching version {release.version}")
    rollout.fetch([canary])
    switched: list[list[Board]] = []
    for boards in clusters:
        try:
            say(f"{boards[0].cluster}: fetching")
            rollout.fetch(boards)
            switched.append(boards)
            say(f"{boards[0].cluster}: switching")
            rollout.switch(boards)
        except (CoformerError, KeyboardInterrupt) as error:
            raise rollout.undo(switched, boards, error) from error
        say(f"{boards[0].cluster}: serves version {release.version}")
    names = [boards[0].cluster for boards in clusters]
    return {"name": release.name, "version": release.version, "digest": digest, "clusters": names}


def _check_devices(release: Release, clusters: Sequence[Sequence[Board]], hosts: Path) -> None:
    wanted = {member.device for member in release.members}
    for boards in clusters:
        given = {board.device for board in boards}
        if given != wanted:
            problem = [f"no host for '{device}'" for device in sorted(wanted - given)]
            problem += [f"'{device}' is not in the release" for device in sorted(given - wanted)]
            raise CoformerError(
                f"cluster '{boards[0].cluster}': " + ", ".join(problem),
                f"hosts file {hosts}",
                "name exactly the release's devices: " + ", ".join(sorted(wanted)),
            )


class _Rollout:
    """What goes to the boards."""

    def __init__(self, fleet: Fleet, release: Release, pinned: str, say: Callable[[str], None]) -> None:
        self._fleet, self._release, self._pinned, self._say = fleet, release, pinned, say
        self._root = ["--root", fleet.root]
        self._version = ["--version", str(release.version)]
        self._restart = ["--restart", fleet.restart] if fleet.restart else []

    def fetch(self, boards: Sequence[Board]) -> None:
        """Fetch and test; what the boards serve stays."""
        fetched = ["pull", self._pinned, *self._root, "--fetch-only", *self._fleet.pull]
        self._each(boards, lambda board: board.run(*fetched, "--device", board.device))

    def switch(self, boards: Sequence[Board]) -> None:
        """Switch all boards, then check all, then confirm all."""
        self._each(boards, lambda board: board.run("release", "activate", *self._root, "--hold", *self._restart))
        self._each(
            boards, lambda board: board.run("release", "check", *self._root, *self._version, *self._proof(board))
        )
        self._each(boards, lambda board: board.run("release", "confirm", *self._root))

    def _proof(self, board: Board) -> list[str]:
        command = self._fleet.checks.get(board.device, self._fleet.check)
        return ["--probation", f"{self._fleet.probation_s:g}", *(["--check", command] if command else [])]

    def undo(self, switched: Sequence[Sequence[Board]], failed: Sequence[Board], error: BaseException) -> CheckFailed:
        """Roll back the clusters, the last one first, and return what to raise.

        A board that has not switched, or was rolled back, is left as it is: it is told the version.
        """
        stuck = []
        for boards in reversed(switched):
            self._say(f"{boards[0].cluster}: rolling back")
            for board in boards:
                try:
                    board.run("release", "rollback", *self._root, *self._version, *self._restart)
                except CoformerError as second:
                    stuck.append(f"{board}: {second.what}")
        what = error.what if isinstance(error, CoformerError) else "interrupted"
        where = error.where if isinstance(error, CoformerError) else f"cluster {failed[0].cluster}"
        done = "every cluster that was switched serves its release of before" if switched else "nothing was switched"
        if stuck:
            done = "not rolled back: " + "; ".join(stuck)
        mend = "see the node's log on that board, then run the same command again"
        return CheckFailed(f"{what}; the rollout of version {self._release.version} stopped, {done}", where, mend)

    def _each(self, boards: Sequence[Board], run: Callable[[Board], str]) -> None:
        """Run something on several boards at the same time; raise the first error after all have ended."""
        with ThreadPoolExecutor(self._fleet.at_once) as pool:
            jobs = [pool.submit(run, board) for board in boards]
        for job in jobs:
            job.result()


def rollout_text(found: dict[str, Any]) -> str:
    """What was switched."""
    return f"{found['name']} {found['version']} is served by {', '.join(found['clusters'])}"
