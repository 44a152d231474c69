"""How far beyond its deadline is a request answered, or refused, that a fault strikes? Measured at a gRPC client.

Part of chaos.py. A fault strikes one member's connection with the request's first bytes, through a proxy (TCP delayed,
swallowed, dripped, dropped, refused), or the member itself (SIGSTOP). Before every sample all members have answered, so
that the breaker is closed and the request does meet the fault; the connection is mended after it. Several central nodes
take turns, half of them answering by fewer members and half refusing: while one mends, the next is struck.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from coformer_runtime.answer import Answer
from coformer_runtime.client import Client
from coformer_runtime.errors import CoformerError
from tests.runtime import bundles
from tests.runtime.proxy import BLACK_HOLE, DROP, FAULTS, PASS, Proxy

ROOT = Path(__file__).resolve().parents[2]
STOP = "stop"
STRUCK = "desk"
SITES = (None, None, 2, 2)  # --min-members of each central node
DEADLINE_MS = 100
DELAY_S = 0.3  # in the proxy that delays: longer than the deadline
MENDED_S = 20.0
NOT_MET = ("not asked", "not reached", "no worker")  # reasons of a member that the request was not sent to
PIXELS = np.zeros(bundles.PIXELS, np.uint8)


class Site(NamedTuple):
    """One central node with a proxy between it and the member that is struck."""

    client: Client
    proxy: Proxy


class Sample(NamedTuple):
    """One request: milliseconds beyond the deadline (negative: within), why the member is missing, "" if it is not."""

    beyond_ms: float
    reason: str

    @property
    def met(self) -> bool:
        """Whether the request was sent to the member, and the fault took its answer."""
        return bool(self.reason) and not self.reason.startswith(NOT_MET)


@contextlib.contextmanager
def node(*words: str) -> Iterator[tuple[int, str]]:
    """Start `coformer-node`; yield its process id and address."""
    command = [sys.executable, "-m", "coformer_runtime", *words, "--threads", "1", "--exit-with-stdin"]
    command += ["--allow-root"] if os.geteuid() == 0 else []
    environment = dict(os.environ, PYTHONPATH=str(ROOT / "runtime"))
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=environment) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            said = process.stdout.readline().split()
            if len(said) != 2:
                raise SystemExit(f"it does not start: {' '.join(command)}")
            yield process.pid, said[1].decode()
        finally:
            process.kill()


@contextlib.contextmanager
def sites(dirs: list[str]) -> Iterator[tuple[list[Site], int]]:
    """Two workers and the central nodes; yields these, and the process id of the worker that is struck."""
    with contextlib.ExitStack() as stack:
        _, hall = stack.enter_context(node("serve", dirs[1]))
        pid, desk = stack.enter_context(node("serve", dirs[2]))
        made = []
        for least in SITES:
            proxy = stack.enter_context(Proxy(desk, delay_s=DELAY_S))
            words = ["central", dirs[0], "--deadline-ms", str(DEADLINE_MS)]
            words += ["--worker", f"hall={hall}", "--worker", f"{STRUCK}={proxy.address}"]
            words += [] if least is None else ["--min-members", str(least)]
            _, address = stack.enter_context(node(*words))
            made.append(Site(stack.enter_context(Client(address)), proxy))
        yield made, pid


def wait_for_all(client: Client) -> None:
    """Ask until all members have answered: the breakers are closed then."""
    until = time.monotonic() + MENDED_S
    while True:
        with contextlib.suppress(CoformerError):
            if not client.infer(PIXELS).missing:
                return
        if time.monotonic() > until:
            raise SystemExit(f"the members are not back within {MENDED_S:g} s")
        time.sleep(0.005)


def sample(client: Client) -> Sample:
    """One request, timed at the client."""
    answer: Answer | None = None
    told = ""
    started = time.monotonic()
    try:
        answer = client.infer(PIXELS)
    except CoformerError as error:
        told = error.what
    beyond_ms = (time.monotonic() - started) * 1e3 - DEADLINE_MS
    if answer is not None:
        return Sample(round(beyond_ms, 2), answer.missing.get(STRUCK, ""))
    return Sample(round(beyond_ms, 2), told.rpartition(f"{STRUCK} (")[2].rstrip(")"))


def struck(site: Site, fault: str) -> Sample:
    """One request that a fault of the network strikes; the connection is mended after it."""
    site.proxy.strike_next(fault)
    found = sample(site.client)
    if fault == BLACK_HOLE:  # what lacks bytes is of no use any more
        site.proxy.set(DROP)
    site.proxy.set(PASS)
    return found


def stopped(site: Site, pid: int) -> Sample:
    """One request while the member does not run."""
    os.kill(pid, signal.SIGSTOP)
    try:
        # The signal stops a process of many threads some moments later; until then it answers.
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.001)
        return sample(site.client)
    finally:
        os.kill(pid, signal.SIGCONT)


def measure(dirs: list[str], samples: int) -> dict[str, list[Sample]]:
    """Fault → as many samples that met it, by all the central nodes in turn."""
    found: dict[str, list[Sample]] = {}
    with sites(dirs) as (made, pid):
        for fault in (*FAULTS, STOP):
            met: list[Sample] = []
            for turn in range(3 * samples):
                site = made[turn % len(made)]
                wait_for_all(site.client)
                one = stopped(site, pid) if fault == STOP else struck(site, fault)
                met += [one] if one.met else []
                if len(met) == samples:
                    break
            found[fault] = met
    return found


def report(found: dict[str, list[Sample]]) -> dict[str, Any]:
    """Fault → how many requests met it, and quantiles of the milliseconds beyond the deadline."""
    told: dict[str, Any] = {}
    for fault, samples in found.items():
        beyond = [each.beyond_ms for each in samples]
        p50, p99 = (round(float(np.percentile(beyond, q)), 2) for q in (50, 99)) if beyond else (None, None)
        told[fault] = {"samples": len(beyond), "p50": p50, "p99": p99, "all": sorted(beyond)}
    return told
