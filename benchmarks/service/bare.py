"""How fast can a cluster be that speaks gRPC in Python, and how far from it is ours?

Usage: python benchmarks/service/bare.py [--requests 800] [--output FILE]

Three devices on loopback, 150 kB of uint8 as input, the same engines: a client asks a central node, which asks two
workers, runs its own engine meanwhile, and answers. Beside our cluster and our client, clusters without any logic of
ours (WAYS; bare_nodes.py: no frames, checks, deadlines, metrics or aggregation), asked by a stock client, and one over
plain TCP sockets. All are up at once and take turns, BLOCK requests each, the engine alone after every request; all
are started anew STARTS times, since one start differs from another by a twentieth. In every second round processes of
the lowest priority keep all CPUs awake: a CPU that is idle is slow to wake, in a virtual machine above all, and the
difference is what that costs here.

Of each: what a request adds to the engine alone (`added_ms`, and `added_awake_ms`; `over_alone_ms` of latency.py), the
CPU time of a request in all its processes, this one too (`cpu_ms`), and what that alone would add, spread evenly over
all CPUs (`floor_added_ms`): no schedule of the same work is faster. `ours_to` is our p50 over that of each other one,
awake or not.

About a minute and a half. Exits 1 if an answer was another one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "runtime")]

import grpc
import numpy as np

from benchmarks.service import sockets
from benchmarks.service.bare_nodes import UNARY
from benchmarks.service.latency import machine, pixels
from benchmarks.service.soak import PIXELS, quantiles
from coformer_runtime.bundle import open_bundle
from coformer_runtime.cluster import LocalCluster
from coformer_runtime.engines import open_member
from coformer_runtime.listen import CHANNEL_OPTIONS
from tests.runtime import bundles

RESULT = ROOT / "benchmarks" / "results" / "cluster_bare.json"
NODES = Path(__file__).with_name("bare_nodes.py")
BLOCK, WARM_UP, STARTS = 50, 2, 4  # requests; rounds
OURS = "ours"
# What the central node serves with, how it asks, what the workers serve with. The first is what ours is made of.
WAYS = {
    "sync, streams to sync": ("sync", "stream", "sync"),
    "sync, calls to sync": ("sync", "unary", "sync"),
    "aio, streams to sync": ("aio", "stream", "sync"),
    "aio, calls to sync": ("aio", "unary", "sync"),
    "aio, streams to aio": ("aio", "stream", "aio"),
    "aio, calls to aio": ("aio", "unary", "aio"),
    "sockets": ("tcp", "tcp", "tcp"),
}
SPIN = "import os; os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\nwhile True: pass"


class Cluster(NamedTuple):
    """How to ask one, what it has to answer, as float32, and its processes, without this one."""

    ask: Callable[[np.ndarray], np.ndarray]
    expected: np.ndarray
    pids: list[int]


@contextlib.contextmanager
def node(*words: str) -> Iterator[tuple[str, int]]:
    """A process of bare_nodes.py; its address and id."""
    command = [sys.executable, str(NODES), *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        yield process.stdout.readline().strip(), process.pid
        process.stdin.close()


def bare_clusters(dirs: list[str], stack: contextlib.ExitStack) -> dict[str, Cluster]:
    """One of each way; those with workers of one kind share them, since one cluster is asked at a time."""
    expected = np.concatenate([bundles.features_of(member, pixels()) for member in range(len(dirs))], axis=1)
    workers = {kind: [stack.enter_context(node(path, kind)) for path in dirs[1:]] for kind in ("sync", "aio", "tcp")}
    clusters = {}
    for name, (central, link, kind) in WAYS.items():
        words = [word for address, _ in workers[kind] for word in ("--worker", address)]
        address, pid = stack.enter_context(node(dirs[0], central, "--link", link, *words))
        ask = asking(address, central, stack)
        clusters[name] = Cluster(ask, expected[0], [pid, *(worker for _, worker in workers[kind])])
    return clusters


def asking(address: str, kind: str, stack: contextlib.ExitStack) -> Callable[[np.ndarray], np.ndarray]:
    """How a stock client asks a node of this kind."""
    if kind == "tcp":
        send, receive = stack.enter_context(sockets.plain(address))
        return lambda array: np.frombuffer(receive(send(array.tobytes())), np.float32)
    channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
    stack.callback(channel.close)
    call = channel.unary_unary(UNARY)
    return lambda array: np.frombuffer(call(array.tobytes()), np.float32)


def our_cluster(dirs: list[str], stack: contextlib.ExitStack) -> Cluster:
    """Ours, with our client."""
    cluster = stack.enter_context(LocalCluster(dirs, deadline_ms=5000))
    client = stack.enter_context(cluster.client())
    expected = bundles.answer_of(range(len(dirs)), pixels())[0]
    return Cluster(lambda array: client.infer(array).logits[0], expected, list(cluster.pids.values()))


@contextlib.contextmanager
def kept_awake() -> Iterator[Callable[[bool], None]]:
    """What turns on and off that every CPU has something to do, which gives way to everything else."""
    with contextlib.ExitStack() as stack:
        spinning = []
        for cpu in os.sched_getaffinity(0):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", SPIN]))
            stack.callback(process.kill)
            os.sched_setaffinity(process.pid, {cpu})
            spinning.append(process)

        def turn(on: bool) -> None:
            for process in spinning:
                process.send_signal(signal.SIGCONT if on else signal.SIGSTOP)

        yield turn


def cpu_seconds(pids: list[int]) -> float:
    """CPU time of this process and of others so far: clock_getcpuclockid(3), which counts nanoseconds."""
    return time.process_time() + sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)


class Times(NamedTuple):
    """Seconds of each request, of the engine alone after it, and of CPU of each block's requests by their number."""

    request: list[float]
    alone: list[float]
    cpu: list[float]


def block(cluster: Cluster, run: Callable[[np.ndarray], Any], times: Times) -> None:
    """BLOCK requests, and the engine alone after each."""
    array, engine_s, used = pixels(), 0.0, cpu_seconds(cluster.pids)
    for _ in range(BLOCK):
        started = time.perf_counter()
        answer = cluster.ask(array)
        ended = time.perf_counter()
        assert np.allclose(answer, cluster.expected, rtol=1e-4, atol=1e-4), (answer, cluster.expected)
        own, began = time.process_time(), time.perf_counter()
        run(array)
        times.alone.append(time.perf_counter() - began)
        engine_s += time.process_time() - own
        times.request.append(ended - started)
    times.cpu.append((cpu_seconds(cluster.pids) - used - engine_s) / BLOCK)


def measure(dirs: list[str], requests: int) -> dict[str, dict[str, Any]]:
    """All starts."""
    times = {(name, awake): Times([], [], []) for name in (*WAYS, OURS) for awake in (False, True)}
    for _ in range(STARTS):
        take_turns(dirs, requests // STARTS // BLOCK, times)
    return {name: summary(times[name, False], times[name, True]) for name in (*WAYS, OURS)}


def take_turns(dirs: list[str], rounds: int, times: dict[tuple[str, bool], Times]) -> None:
    """Start all clusters, and let them take turns, so many rounds with the CPUs awake and so many without."""
    with contextlib.ExitStack() as stack:
        clusters = {**bare_clusters(dirs, stack), OURS: our_cluster(dirs, stack)}
        engine = stack.enter_context(open_member(open_bundle(dirs[0]), 1))
        turn = stack.enter_context(kept_awake())
        for number in range(WARM_UP + 2 * rounds):
            awake = number % 2 == 1
            turn(awake)
            for name, cluster in clusters.items():
                into = times[name, awake] if number >= WARM_UP else Times([], [], [])
                block(cluster, lambda array: engine.run({"pixels": array}), into)


def summary(asleep: Times, awake: Times) -> dict[str, Any]:
    """What is written of one cluster."""
    added = []
    for times in (asleep, awake):
        alone = float(np.median(times.alone))
        added.append(quantiles([(each - alone) * 1e3 for each in times.request]))
    alone_ms, cpu_ms = float(np.median(awake.alone)) * 1e3, float(np.median(awake.cpu)) * 1e3
    return {
        "added_ms": added[0],
        "added_awake_ms": added[1],
        "engine_alone_ms": round(alone_ms, 3),
        "cpu_ms": round(cpu_ms, 3),
        "floor_added_ms": round(cpu_ms / len(os.sched_getaffinity(0)) - alone_ms, 3),
    }


def main() -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=800, help="to each cluster, with the CPUs awake and without")
    parser.add_argument("--output", type=Path, default=RESULT, help="where the raw figures go")
    options = parser.parse_args()
    before = machine()
    with tempfile.TemporaryDirectory() as directory:
        dirs = bundles.make_cluster(Path(directory) / "cluster", pixels=PIXELS)
        clusters = measure(dirs, options.requests)
    ratios = {
        name: [round(clusters[OURS][key]["p50"] / each[key]["p50"], 3) for key in ("added_ms", "added_awake_ms")]
        for name, each in clusters.items()
    }
    measured = {
        "input_bytes": int(np.prod(PIXELS)),
        "requests": options.requests,
        "machine": before,
        "clusters": clusters,
        "ours_to": {name: each for name, each in ratios.items() if name != OURS},
    }
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(measured, indent=2, sort_keys=True) + "\n")
    for name, each in clusters.items():
        print(
            f"{name}: adds {each['added_ms']} ms, with the CPUs awake {each['added_awake_ms']}; "
            f"{each['cpu_ms']} ms of CPU, which add {each['floor_added_ms']} at the least; ours to it: {ratios[name]}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
