"""Kills, or fills the disk of, one operation on a board's releases at every point, and looks at what is left.

Usage: python interrupted.py kill|full steps|calls OPERATION LAYOUT KEY.pub WORK [self-test]. Runs under any Python
from 3.6 on with the runtime alone. Prints one JSON object: how often each step was interrupted, and how often
`current` was a whole release afterwards. Ends with an AssertionError where anything is not as it should be.

`steps` interrupts before every step of the tables; `calls` before every single call that changes the disk.
"""
# ruff: noqa: BLE001, PT017, PTH118, PTH208 - the child may fail in any way; Python 3.6 and the runtime's own way with paths

import builtins
import errno
import json
import os
import shutil
import signal
import sys
import traceback

from coformer_runtime.bundle import open_bundle
from coformer_runtime.errors import CheckFailed, CoformerError
from coformer_runtime.shipping import activate as activation
from coformer_runtime.shipping import pull as pulling
from coformer_runtime.shipping.dsse import load_public_key
from coformer_runtime.shipping.layout import Layout
from coformer_runtime.shipping.reference import parse_reference
from coformer_runtime.shipping.root import CURRENT, INCOMING, RELEASES, Root

NOW = 1800000000.0
CHANGING = ("rename", "symlink", "unlink", "rmdir", "mkdir", "fsync")
ALLOCATING = ("symlink", "mkdir", "fsync", "open")
FAILS = activation.Probation(check="false", limit_s=0.0, sleep=lambda seconds: None)
KILLED, REFUSED, FINISHED, BROKEN = "killed", "refused", "finished", "broken"


def fetch(root, layout, tag, key, before):
    reference = parse_reference("oci-layout:{}:{}".format(layout, tag))
    options = pulling.PullOptions("hall", keys=(load_public_key(key),), reserve_bytes=0)
    with Layout(reference) as store:
        pulling.pull(store, reference, root, options, NOW, before)


def install(root, layout, key, before):
    fetch(root, layout, "one", key, before)
    activation.activate(root, before=before)


def upgrade(root, layout, key, before):
    fetch(root, layout, "two", key, before)
    activation.activate(root, before=before)


def fail(root, layout, key, before):
    """A release that does not prove well is rolled back, and not tried again; that is how it has to end."""
    try:
        fetch(root, layout, "two", key, before)
        activation.activate(root, probation=FAILS, before=before)
    except CheckFailed as error:
        assert "rolled back" in error.what, error


def go_back(root, layout, key, before):
    activation.roll_back(root, version=2, before=before)


# operation: what is done before, versions that may be served in between (0: none), and at the end
OPERATIONS = {
    "install": (install, (), (0, 1), 1),
    "upgrade": (upgrade, (install,), (1, 2), 2),
    "fail": (fail, (install,), (1, 2), 1),
    "rollback": (go_back, (install, upgrade), (1, 2), 1),
}


class Interruption(object):
    """At the `number`th point: kill this process, or let nothing be written from there on."""

    def __init__(self, how, where, number, pipe):
        self.how, self.where, self.number, self.pipe = how, where, number, pipe
        self.count, self.step, self.full = 0, "begin", False

    def before(self, step):
        self.step = step
        if self.where == "steps":
            self.point()

    def point(self):
        self.count += 1
        if self.count != self.number:
            return
        os.write(self.pipe, self.step.encode())
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        self.full = True

    def install(self):
        for name in CHANGING:
            setattr(os, name, self.watched(name, getattr(os, name)))
        really_open = builtins.open

        def watched_open(file, mode="r", *rest, **more):
            if "w" in mode or "a" in mode:
                self.change("open")
            return really_open(file, mode, *rest, **more)

        builtins.open = watched_open

    def watched(self, name, function):
        def call(*words, **more):
            self.change(name)
            return function(*words, **more)

        return call

    def change(self, name):
        if self.where == "calls":
            self.point()
        if self.full and name in ALLOCATING:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def in_a_child(operation, root, layout, key, interruption):
    """Run the operation in a process of its own; return how it ended."""
    child = os.fork()
    if child == 0:
        code = 3
        try:
            interruption.install()
            operation(root, layout, key, interruption.before)
            code = 0
        except CoformerError as error:
            code = 1 if error.what == "it cannot be written (No space left on device)" else 4
            if code == 4:
                traceback.print_exc()
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return KILLED
    return {0: FINISHED, 1: REFUSED}.get(os.WEXITSTATUS(status), BROKEN)


def served(root):
    """The version that is served, 0 for none; every byte of it is hashed."""
    record = root.served()
    if record is None:
        assert not os.path.lexists(root.at(CURRENT))
        return 0
    bundle = open_bundle(root.at(CURRENT))
    assert bundle.manifest.build == record.build
    return record.version


def main(how, where, name, layout, key, work, *more):
    operation, first, between, end = OPERATIONS[name]
    if "self-test" not in more:
        pulling.self_test = lambda *words: None
    base = Root(os.path.join(work, "base"))
    for each in first:
        each(base, layout, key, lambda step: None)
    steps, outcomes, number, valid = {}, {}, 0, 0
    while True:
        number += 1
        root = Root(os.path.join(work, "board"))
        shutil.rmtree(root.path, ignore_errors=True)
        if first:
            shutil.copytree(base.path, root.path, symlinks=True)
        inward, outward = os.pipe()
        outcome = in_a_child(operation, root, layout, key, Interruption(how, where, number, outward))
        os.close(outward)
        with os.fdopen(inward, "rb") as stream:
            step = stream.read().decode()
        if not step:
            assert outcome == FINISHED, outcome
            break
        assert outcome in ((KILLED,) if how == "kill" else (REFUSED, FINISHED)), (number, step, outcome)
        steps[step] = steps.get(step, 0) + 1
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        assert served(root) in between, (number, step)
        activation.recover(root)
        assert root.journal() is None and served(root) in between, (number, step)
        operation(root, layout, key, lambda step: None)
        assert served(root) == end, (number, step)
        left = sorted(entry for entry in os.listdir(root.at(RELEASES)) if not entry.endswith(".json"))
        assert left == sorted(record.id for record in root.releases()), (number, step)
        assert name == "fail" or os.listdir(root.at(INCOMING)) == [], (number, step)
        valid += 1
    print(json.dumps({"points": number - 1, "valid": valid, "steps": steps, "outcomes": outcomes}))


if __name__ == "__main__":
    main(*sys.argv[1:])
