"""Does a cluster of processes keep its word while its members are killed, stopped, and cut off?

Usage: python benchmarks/service/chaos.py [--requests 2000] [--minutes M] [--output FILE]

Three devices on loopback, an answer by any one of them allowed.

- chaos: requests, each with an id and an input of its own, while a worker at random is killed (kill -9) and started
  again; every answer is compared with what exactly the members that it names compute. Memory and open files of the
  central node before and after.
- detection: how long after a kill the next answer came; how long after the worker listened again it took part; how long
  an answer took while a worker was stopped (SIGSTOP), against the deadline.
- faults: answers through a proxy that delays, swallows, drips, drops and refuses: time beyond the deadline.

About two minutes; for 10,000 requests: `--requests 10000`. A soak: `--minutes 60`. Exits 1 if one of
LIMITS was missed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "runtime")]

import numpy as np

from benchmarks.service.soak import footprint
from coformer_runtime.breaker import OPEN_S
from coformer_runtime.bundle import open_bundle
from coformer_runtime.central import Central
from coformer_runtime.central_options import CentralOptions
from coformer_runtime.client import Client
from coformer_runtime.cluster import LocalCluster
from coformer_runtime.errors import CoformerError
from tests.runtime import bundles
from tests.runtime.nodes import serving
from tests.runtime.proxy import FAULTS, PASS, Proxy

RESULT = ROOT / "benchmarks" / "results" / "cluster_chaos.json"
LIMITS = {
    "errors": 0, "rss_growth_kb": 2048, "open_files_growth": 0, "next_answer_ms": 50.0, "over_deadline_ms": 10.0,
    "recovery_s": OPEN_S + 0.5,  # the interval, and the request that probes
}  # fmt: skip
DEADLINE_MS = 500
WARM_UP = 1500
WORKERS = ("hall", "desk")


def check(client: Client, number: int, chance: np.random.Generator) -> tuple[str, bool]:
    """One request; what is wrong with its answer ("" if nothing), and whether it was degraded."""
    array = chance.integers(0, 256, bundles.PIXELS, dtype=np.uint8)
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


def chaos(dirs: list[str], requests: int, minutes: float) -> dict[str, Any]:
    """Requests while workers die and come back."""
    chance, errors, degraded, kills, sent = np.random.default_rng(0), [], 0, 0, 0
    ended = threading.Event()
    with LocalCluster(dirs, min_members=1, deadline_ms=DEADLINE_MS) as cluster, cluster.client() as client:

        def disturb() -> int:
            dice, count = random.Random(1), 0
            while not ended.wait(dice.uniform(0.8, 2.5)):
                device = dice.choice(WORKERS)
                cluster.kill(device)
                ended.wait(dice.uniform(0.0, 0.4))
                cluster.restart(device)
                count += 1
            return count

        def central() -> dict[str, int]:
            return footprint(cluster.pids["attic"])

        counted: list[int] = []
        for number in range(-WARM_UP, 0):
            check(client, number, chance)
        for device in WORKERS:  # connections broken and made are part of the warm-up
            cluster.kill(device)
            for number in range(20):
                check(client, number, chance)
            cluster.restart(device)
        wait_for_all(client)
        before = central()
        thread = threading.Thread(target=lambda: counted.append(disturb()))
        thread.start()
        until = time.monotonic() + 60 * minutes
        while sent < requests or time.monotonic() < until:
            wrong, was_degraded = check(client, sent, chance)
            errors += [wrong] if wrong else []
            degraded, sent = degraded + was_degraded, sent + 1
        ended.set()
        thread.join()
        kills = counted[0]
        recovered_s = wait_for_all(client)
        after = central()
    return {
        "requests": sent,
        "kills": kills,
        "degraded": degraded,
        "errors": errors[:20],
        "error_count": len(errors),
        "recovered_s": recovered_s,
        "central_before": before,
        "central_after": after,
    }


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
    """Times from a kill to the next answer, from a new start to taking part, and of answers beside a stopped worker."""
    array = np.zeros(bundles.PIXELS, np.uint8)
    killed, back, stopped, resumed = [], [], [], []
    with LocalCluster(dirs, min_members=1, deadline_ms=DEADLINE_MS) as cluster, cluster.client() as client:
        for number in range(rounds):
            device = WORKERS[number % 2]
            wait_for_all(client)
            os.kill(cluster.pids[device], signal.SIGKILL)
            started = time.monotonic()
            answer = client.infer(array)
            killed.append((time.monotonic() - started) * 1e3)
            if device in answer.members:  # it was asked, and answered, before the kill took effect
                killed.pop()
            cluster.kill(device)
            cluster.restart(device)
            back.append(wait_for_all(client))
        for number in range(3):
            device = WORKERS[number % 2]
            os.kill(cluster.pids[device], signal.SIGSTOP)
            for _ in range(4):
                started = time.monotonic()
                client.infer(array)
                stopped.append((time.monotonic() - started) * 1e3)
            os.kill(cluster.pids[device], signal.SIGCONT)
            resumed.append(wait_for_all(client))
    return {
        "next_answer_ms": [round(ms, 2) for ms in killed],
        "recovery_s": back,
        "stopped_answer_ms": [round(ms, 2) for ms in stopped],
        "resumed_s": resumed,
    }


def faults(dirs: list[str], rounds: int = 25) -> dict[str, list[float]]:
    """Fault → milliseconds beyond the deadline (negative: within), of answers and failures alike."""
    array = np.zeros(bundles.PIXELS, np.uint8)
    beyond: dict[str, list[float]] = {}
    for fault in FAULTS:
        for least in (None, 2):
            with serving(dirs[1]) as hall, serving(dirs[2]) as desk, Proxy(desk) as proxy:
                options = CentralOptions((hall, "desk=" + proxy.address), DEADLINE_MS // 2, least)
                with Central(open_bundle(dirs[0]), options) as central:
                    while central.missing():
                        time.sleep(0.01)
                    proxy.set(fault)
                    for _ in range(rounds):
                        started = time.monotonic()
                        with contextlib.suppress(CoformerError):
                            central.answer(array)
                        took_ms = (time.monotonic() - started) * 1e3
                        beyond.setdefault(fault, []).append(round(took_ms - options.deadline_ms, 2))
                    proxy.set(PASS)
    return beyond


def main() -> int:
    """Run, print, write, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--minutes", type=float, default=0, help="go on for so long")
    parser.add_argument("--output", type=Path, default=RESULT, help="where the raw figures go")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        dirs = bundles.make_cluster(Path(directory))
        measured: dict[str, Any] = {
            "chaos": chaos(dirs, options.requests, options.minutes),
            "detection": detection(dirs),
            "over_deadline_ms": faults(dirs),
        }
    run, found = measured["chaos"], measured["detection"]
    over = sorted(ms for values in measured["over_deadline_ms"].values() for ms in values)
    over += [ms - DEADLINE_MS for ms in found["stopped_answer_ms"]]
    figures = {
        "errors": run["error_count"],
        "rss_growth_kb": run["central_after"]["rss_kb"] - run["central_before"]["rss_kb"],
        "open_files_growth": run["central_after"]["open_files"] - run["central_before"]["open_files"],
        "next_answer_ms": max(found["next_answer_ms"]),
        "over_deadline_ms": round(float(np.percentile(over, 99)), 2),
        "recovery_s": max(found["recovery_s"] + found["resumed_s"]),
    }
    measured["figures"], measured["limits"] = figures, LIMITS
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(measured, indent=2, sort_keys=True) + "\n")
    print(f"{run['requests']} requests, {run['kills']} kills, {run['degraded']} degraded answers")
    for name, value in figures.items():
        print(f"{name}: {value} (limit {LIMITS[name]})")
    for error in run["errors"]:
        print(error)
    return 1 if any(figures[name] > limit for name, limit in LIMITS.items()) else 0


if __name__ == "__main__":
    sys.exit(main())
