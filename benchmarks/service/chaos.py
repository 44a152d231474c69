"""Does a cluster of processes keep its word while its members are killed, stopped, and cut off?

Usage: python benchmarks/service/chaos.py [--requests 10000] [--samples 100] [--minutes M] [--output FILE]

Three devices on loopback, an answer by any one of them allowed.

- chaos: four clients at a time send requests, each with an id and an input of its own, while one worker is killed
  (kill -9) and started again at random, in the second half the other one; every answer is compared with what exactly
  the members that it names compute. Memory and open files of the central node, and of the worker that lives on.
- detection: how long after a kill the next answer came; how long after the worker listened again it took part; how long
  after it was stopped (SIGSTOP) for three requests, and went on.
- faults: time beyond the deadline, for each fault by itself (chaos_faults.py).

Under six minutes. A soak: `--minutes 60`. Exits 1 if one of LIMITS was missed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "runtime")]

import numpy as np

from benchmarks.service import chaos_faults
from benchmarks.service.soak import Errors, footprint
from coformer_runtime.breaker import FAILURES, OPEN_S
from coformer_runtime.client import Client
from coformer_runtime.cluster import LocalCluster
from coformer_runtime.errors import CoformerError
from tests.runtime import bundles

RESULT = ROOT / "benchmarks" / "results" / "cluster_chaos.json"
LIMITS = {
    "errors": 0, "ids_lost_or_doubled": 0, "rss_growth_kb": 2048, "open_files_growth": 0, "next_answer_ms": 50.0,
    "over_deadline_ms": 10.0,  # p99 of each fault
    "samples_missing": 0,  # of those that were to meet a fault
    "recovery_s": OPEN_S + 0.5,  # the interval, and the request that probes
}  # fmt: skip
DEADLINE_MS = 500
CLIENTS = 4
WARM_UP = 1500
WORKERS = ("desk", "hall")


class Tally:
    """What several clients have seen."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.errors = Errors()
        self.ended: set[int] = set()
        self.doubled = self.degraded = 0

    def add(self, number: int, wrong: str, degraded: bool) -> None:
        """Count the answer to a request, or what is wrong with it."""
        with self._lock:
            self.doubled += number in self.ended
            self.ended.add(number)
            self.degraded += degraded
            if wrong:
                self.errors.add(wrong)

    def lost_or_doubled(self) -> int:
        """How many requests, numbered from 0, came to no end or to two."""
        return self.doubled + max(self.ended, default=-1) + 1 - len(self.ended)


def check(client: Client, number: int) -> tuple[str, bool]:
    """One request; what is wrong with its answer ("" if nothing), and whether it was degraded."""
    array = np.random.default_rng(abs(number)).integers(0, 256, bundles.PIXELS, dtype=np.uint8)
    try:
        answer = client.infer(array, request_id=f"request-{number}")  # raises for the answer to another id
    except CoformerError as error:
        return f"request {number}: {error}", False
    members = tuple(bundles.DEVICES.index(device) for device in answer.members)
    if not np.allclose(answer.logits, bundles.answer_of(members, array), rtol=1e-3, atol=1e-3):
        return f"request {number}: wrong answer by {answer.members}", answer.degraded
    if answer.degraded != (len(members) < len(bundles.DEVICES)) or answer.degraded != bool(answer.missing):
        return f"request {number}: by {answer.members}, degraded is {answer.degraded}", answer.degraded
    return "", answer.degraded


def ask_all(clients: list[Client], numbers: Iterator[int], tally: Tally) -> None:
    """Let all clients send requests at the same time until there is no number left."""
    lock = threading.Lock()

    def ask(client: Client) -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            tally.add(number, *check(client, number))

    with ThreadPoolExecutor(len(clients)) as pool:
        list(pool.map(ask, clients))


def disturbed(cluster: LocalCluster, device: str, ended: threading.Event) -> int:
    """Kill one device and start it again at random until `ended`; return how often."""
    dice, count = random.Random(1), 0
    while not ended.wait(dice.uniform(0.5, 1.5)):
        cluster.kill(device)
        ended.wait(dice.uniform(0.0, 0.4))
        cluster.restart(device)
        count += 1
    return count


def numbers_until(first: int, count: int, seconds: float) -> Iterator[int]:
    """Yield `count` numbers from `first`, or more of them until the time is over."""
    until = time.monotonic() + seconds
    for number in itertools.count(first):
        if number >= first + count and time.monotonic() > until:
            return
        yield number


def chaos(dirs: list[str], requests: int, minutes: float) -> dict[str, Any]:
    """Requests while one worker dies and comes back, and then the other one."""
    tally, kills, grown = Tally(), {}, {}
    with LocalCluster(dirs, min_members=1, deadline_ms=DEADLINE_MS) as cluster:
        clients = [cluster.client() for _ in range(CLIENTS)]
        for device in WORKERS:
            survivors = [name for name in bundles.DEVICES if name != device]
            warm_up(cluster, clients, device)
            before = {name: footprint(cluster.pids[name]) for name in survivors}
            ended = threading.Event()
            with ThreadPoolExecutor(1) as pool:
                killing = pool.submit(disturbed, cluster, device, ended)
                first = len(tally.ended)
                numbers = numbers_until(first, (requests + 1) // 2, 30 * minutes)
                ask_all(clients, numbers, tally)
                ended.set()
                kills[device] = killing.result()
            wait_for_all(clients[0])
            grown[device] = {
                name: {"before": before[name], "after": footprint(cluster.pids[name])} for name in survivors
            }
    return {
        "requests": len(tally.ended),
        "concurrency": CLIENTS,
        "kills": kills,
        "degraded": tally.degraded,
        "errors": tally.errors.first,
        "error_count": tally.errors.count,
        "ids_lost_or_doubled": tally.lost_or_doubled(),
        "survivors_while_killed": grown,
    }


def warm_up(cluster: LocalCluster, clients: list[Client], device: str) -> None:
    """Let allocators settle: requests, and connections broken and made."""
    ignored = Tally()
    ask_all(clients, iter(range(-WARM_UP, 0)), ignored)
    cluster.kill(device)
    ask_all(clients, iter(range(-100, 0)), ignored)
    cluster.restart(device)
    wait_for_all(clients[0])
    ask_all(clients, iter(range(-100, 0)), ignored)


def wait_for_all(client: Client) -> float:
    """Seconds until all members take part in an answer, at most a minute."""
    started = time.monotonic()
    array = np.zeros(bundles.PIXELS, np.uint8)
    while client.infer(array).degraded:
        if time.monotonic() - started > 60:
            raise SystemExit("the members do not come back")
        time.sleep(0.02)
    return round(time.monotonic() - started, 3)


def detection(dirs: list[str], rounds: int = 20) -> dict[str, Any]:
    """Times from a kill to the next answer, from a new start to taking part, and from SIGCONT to taking part."""
    array = np.zeros(bundles.PIXELS, np.uint8)
    killed, back, resumed = [], [], []
    with LocalCluster(dirs, min_members=1, deadline_ms=DEADLINE_MS) as cluster, cluster.client() as client:
        for number in range(rounds):
            device = WORKERS[number % 2]
            wait_for_all(client)
            os.kill(cluster.pids[device], signal.SIGKILL)
            started = time.monotonic()
            answer = client.infer(array)
            if device not in answer.members:  # otherwise it was asked, and answered, before the kill took effect
                killed.append((time.monotonic() - started) * 1e3)
            cluster.kill(device)
            cluster.restart(device)
            back.append(wait_for_all(client))
        for device in WORKERS:
            os.kill(cluster.pids[device], signal.SIGSTOP)
            for _ in range(FAILURES + 1):
                client.infer(array)
            os.kill(cluster.pids[device], signal.SIGCONT)
            resumed.append(wait_for_all(client))
    return {"next_answer_ms": [round(ms, 2) for ms in killed], "recovery_s": back, "resumed_s": resumed}


def growth(run: dict[str, Any], key: str) -> int:
    """The most that a process which was not killed has grown."""
    pairs = [pair for survivors in run["survivors_while_killed"].values() for pair in survivors.values()]
    return max(int(pair["after"][key] - pair["before"][key]) for pair in pairs)


def judged(measured: dict[str, Any], samples: int) -> dict[str, Any]:
    """What is held to LIMITS."""
    run, found, faults = measured["chaos"], measured["detection"], measured["faults"]
    return {
        "errors": run["error_count"],
        "ids_lost_or_doubled": run["ids_lost_or_doubled"],
        "rss_growth_kb": growth(run, "rss_kb"),
        "open_files_growth": growth(run, "open_files"),
        "next_answer_ms": max(found["next_answer_ms"], default=float("inf")),
        "over_deadline_ms": max((told["p99"] for told in faults.values() if told["samples"]), default=float("inf")),
        "samples_missing": sum(samples - told["samples"] for told in faults.values()),
        "recovery_s": max(found["recovery_s"] + found["resumed_s"]),
    }


def main() -> int:
    """Run, print, write, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--samples", type=int, default=100, help="that meet each fault")
    parser.add_argument("--minutes", type=float, default=0, help="go on with the requests for so long")
    parser.add_argument("--output", type=Path, default=RESULT, help="where the raw figures go")
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        dirs = bundles.make_cluster(Path(directory))
        measured: dict[str, Any] = {
            "chaos": chaos(dirs, options.requests, options.minutes),
            "detection": detection(dirs),
            "faults": chaos_faults.report(chaos_faults.measure(dirs, options.samples)),
            "fault_deadline_ms": chaos_faults.DEADLINE_MS,
        }
    figures = judged(measured, options.samples)
    measured.update(figures=figures, limits=LIMITS, seconds=round(time.monotonic() - started, 1))
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(measured, indent=2, sort_keys=True) + "\n")
    run = measured["chaos"]
    print(f"{run['requests']} requests, kills {run['kills']}, {run['degraded']} degraded, {measured['seconds']} s")
    for fault, told in measured["faults"].items():
        print(f"{fault}: {told['samples']} samples, ms beyond the deadline: p50 {told['p50']}, p99 {told['p99']}")
    for name, value in figures.items():
        print(f"{name}: {value} (limit {LIMITS[name]})")
    for error in run["errors"]:
        print(error)
    return 1 if any(figures[name] > limit for name, limit in LIMITS.items()) else 0


if __name__ == "__main__":
    sys.exit(main())
