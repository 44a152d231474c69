"""Switching a board to another release, on probation, and back. `STEPS` and `BACK` are the tables of contents.

The journal (`activation.json`) is written before anything changes. Until it says "confirmed", whatever interrupts the
activation leads back to the release before; from then on, forward. `recover` is that decision, for the next start.
"""

import contextlib
import shlex
import subprocess
import time
from typing import Callable, List, NamedTuple, Optional, Tuple

from ..alternatives import open_all
from ..bundle import ENGINES
from ..errors import CheckFailed, CoformerError
from .root import CURRENT, NEXT, PREVIOUS, Journal, Record, Root

COMMAND_LIMIT_S = 120
IN_A_ROW = 3
"""Checks that must succeed one after the other, a second apart."""
_PAUSE_S = 1.0


class Probation(NamedTuple):
    """How a release proves that it works.

    Attributes:
        restart: command that makes the node serve what `current` points at; also run after rolling back.
        check: command that exits with 0 if the node is well.
        limit_s: from then on, a check that fails ends it.
        sleep: what waits between them.
    """

    restart: Optional[str] = None
    check: Optional[str] = None
    limit_s: float = 60.0
    sleep: Callable[[float], None] = time.sleep


class _Activation:
    """What the steps share."""

    def __init__(self, root: Root, old: Optional[str], new: str, probation: Probation) -> None:
        self.root, self.old, self.new, self.probation = root, old, new, probation


_Step = Tuple[str, Callable[[_Activation], None]]


def activate(
    root: Root,
    release: Optional[str] = None,
    probation: Probation = Probation(),  # noqa: B008
    hold: bool = False,
    before: Callable[[str], None] = lambda step: None,
) -> Record:
    """Serve a release; roll back if it does not prove well.

    Args:
        root: the board's releases.
        release: its id; None: `next`.
        probation: how it proves that it works.
        hold: leave it unconfirmed after the restart, for `confirm` or `roll_back`.
        before: called with the name of every step before it.

    Raises:
        CheckFailed: it was rolled back, and why.
        CoformerError: there is no such release.
    """
    with root.locked():
        _settle(root, Probation(), before)
        chosen = release or root.link(NEXT)
        if chosen is None:
            raise CoformerError("nothing was fetched to be activated", root.where, "run `coformer-node pull` first")
        record = root.known(chosen)
        old = root.link(CURRENT)
        if old == chosen:
            return record
        activation = _Activation(root, old, chosen, probation)
        _perform(activation, STEPS[:HELD] if hold else STEPS, before)
        return record


def check(root: Root, version: Optional[int], probation: Probation) -> None:
    """Run the health check of what is served until it has proved well.

    Raises:
        CheckFailed: it does not, or it is not `version`.
    """
    served = root.served()
    if version is not None and (served is None or served.version != version):
        found = "version {}".format(served.version) if served else "nothing"
        raise CheckFailed("it serves {}, not version {}".format(found, version), root.where, "activate it again")
    _prove(_Activation(root, None, root.link(CURRENT) or "nothing", probation))


def confirm(root: Root, before: Callable[[str], None] = lambda step: None) -> Optional[Record]:
    """Make the release that is held on probation the one to stay; nothing to do where there is none."""
    with root.locked():
        journal = root.journal()
        if journal is not None:
            activation = _Activation(root, journal.old, journal.new, Probation())
            for name, step in STEPS[PROVED:]:
                before(name)
                step(activation)
        return root.served()


def roll_back(
    root: Root,
    version: Optional[int] = None,
    probation: Probation = Probation(),  # noqa: B008
    before: Callable[[str], None] = lambda step: None,
) -> Optional[Record]:
    """Go back to the release before: of the activation that is not confirmed, or else `previous`.

    Args:
        root: the board's releases.
        version: go back only if this version is served; a second call then changes nothing.
        probation: its `restart` is run.
        before: called with the name of every step before it.

    Returns:
        What is served then; None for nothing, where the first release of all was not confirmed.

    Raises:
        CoformerError: there is nothing to go back to.
    """
    with root.locked():
        served = root.served()
        if version is not None and (served is None or served.version != version):
            _settle(root, probation, before)
            return root.served()
        if root.journal() is not None:
            _settle(root, probation, before)
            return root.served()
        previous = root.link(PREVIOUS)
        if previous is None or not root.holds(previous):
            raise CoformerError("there is no release to go back to", root.where, "pull one")
        activation = _Activation(root, root.link(CURRENT), previous, probation)
        _perform(activation, tuple(step for step in STEPS if step[0] != "probation"), before)
        return root.served()


def recover(root: Root, before: Callable[[str], None] = lambda step: None) -> Optional[Record]:
    """Finish or undo what a kill or a power cut interrupted; for the start of the node.

    While an activation is at work, nothing is to be recovered, and the lock says so.
    """
    if root.journal() is None:  # nothing to do, on a board without releases as well
        return root.served()
    with root.locked():
        _settle(root, Probation(), before)
        return root.served()


def _settle(root: Root, probation: Probation, before: Callable[[str], None]) -> None:
    """Lead an interrupted activation to one of its two ends."""
    journal = root.journal()
    if journal is None:
        return
    activation = _Activation(root, journal.old, journal.new, probation)
    for name, step in STEPS[CONFIRMED:] if journal.confirmed else BACK:
        before(name)
        step(activation)


def _perform(activation: _Activation, steps: Tuple[_Step, ...], before: Callable[[str], None]) -> None:
    """Go through the steps; whatever goes wrong leads back to the release before."""
    try:
        for name, step in steps:
            before(name)
            step(activation)
    except CheckFailed as error:
        raise _rolled_back(activation, error, before) from error
    except BaseException:
        with contextlib.suppress(OSError, CheckFailed):  # then the journal stays, and `recover` does it later
            _settle(activation.root, activation.probation, before)
        raise


def _rolled_back(activation: _Activation, error: CheckFailed, before: Callable[[str], None]) -> CheckFailed:
    """Undo the activation and return what to raise."""
    problem = ""
    try:
        activation.root.refuse(activation.new, error.what)
    except OSError as full:  # going back matters more
        problem = "; that could not be noted ({})".format(full.strerror)
    try:
        _settle(activation.root, activation.probation, before)
    except CheckFailed as second:
        problem += "; and then {}".format(second.what)
    old = "'{}' is served again".format(activation.old) if activation.old else "nothing is served"
    return CheckFailed(
        "release '{}' was rolled back, {}: {}{}".format(activation.new, old, error.what, problem),
        error.where,
        error.mend,
    )


def _verify(a: _Activation) -> None:
    """Hash the release once more: it may have lain on the disk for long."""
    open_all(a.root.folder(a.new), None, a.root.at(ENGINES))


def _note(a: _Activation) -> None:
    """Write down what to go back to."""
    a.root.write_journal(Journal(a.old, a.new, False))


def _switch(a: _Activation) -> None:
    """Let `current` point at the new release."""
    a.root.point(CURRENT, a.new)


def _restart(a: _Activation) -> None:
    """Make the node serve it."""
    if a.probation.restart is not None:
        code, said = _run(a.probation.restart)
        if code:
            raise CheckFailed("`{}` failed: {}".format(a.probation.restart, said), a.root.where, "look at its log")


def _prove(a: _Activation) -> None:
    """Wait until the checks succeed."""
    if a.probation.check is None:
        return
    until, row, said = time.monotonic() + a.probation.limit_s, 0, "not run"
    while row < IN_A_ROW:
        code, said = _run(a.probation.check)
        row = 0 if code else row + 1
        if row < IN_A_ROW:
            if code and time.monotonic() > until:  # a row that has begun may end
                raise CheckFailed(
                    "`{}` did not succeed {} times in a row within {:g} s: {}".format(
                        a.probation.check, IN_A_ROW, a.probation.limit_s, said
                    ),
                    a.root.where,
                    "look at the node's log, or give it more time with --probation",
                )
            a.probation.sleep(_PAUSE_S)


def _confirm(a: _Activation) -> None:
    """From here on there is no way back by itself."""
    a.root.write_journal(Journal(a.old, a.new, True))
    a.root.forgive(a.new)


def _keep(a: _Activation) -> None:
    """Let `previous` point at the release before."""
    a.root.point(PREVIOUS, a.old)


def _finish(a: _Activation) -> None:
    """Forget the journal: the activation has ended."""
    a.root.end_journal()


def _collect(a: _Activation) -> None:
    """Remove the releases that nothing points at any more."""
    a.root.collect()


def _switch_back(a: _Activation) -> None:
    """Let `current` point at the release before, or at nothing."""
    a.root.point(CURRENT, a.old)


STEPS: Tuple[_Step, ...] = (
    ("verify", _verify),
    ("note", _note),
    ("switch", _switch),
    ("restart", _restart),
    ("probation", _prove),
    ("confirm", _confirm),
    ("keep", _keep),
    ("finish", _finish),
    ("collect", _collect),
)
BACK: Tuple[_Step, ...] = (
    ("switch back", _switch_back),
    ("finish", _finish),
    ("restart", _restart),
)
_NAMES: List[str] = [name for name, _ in STEPS]
HELD, PROVED, CONFIRMED = _NAMES.index("probation"), _NAMES.index("confirm"), _NAMES.index("keep")


def _run(command: str) -> Tuple[int, str]:
    """Run a command without a shell; return its exit code and the last line that it said."""
    words = shlex.split(command)
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=COMMAND_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 124, "no end within {} s".format(COMMAND_LIMIT_S)
    except OSError as error:
        return 127, "{}".format(error.strerror)
    lines = done.stdout.decode("utf-8", "replace").strip().splitlines()
    return done.returncode, lines[-1] if lines else "exit code {}".format(done.returncode)
