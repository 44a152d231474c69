"""What does a cluster add to its slowest engine? How much load it takes is measured by stock_load.py.

Usage: python benchmarks/service/latency.py [--requests 2000] [--output FILE]

Three devices on loopback, 150 kB of uint8 as input. In one run, in turns:

- added: a request's time at the client, less the slowest engine's own time in that request (`added_ms`), and less the
  time of an engine alone in this process (`over_alone_ms`), of STARTS clusters one after the other, since one start
  differs from another by a twentieth;
- the device edge alone: the same bytes to two workers at once and the features back, over our streams, over one unary
  gRPC call each, and over plain TCP sockets, with no engine behind (`edge_ms`).

Takes about a minute. Exits 1 if a request failed, or if p50 > 2.5 ms or p99 > 8 ms by either measure of what is added.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "runtime")]

import grpc
import numpy as np

from benchmarks.service.soak import PIXELS, quantiles
from benchmarks.service.sockets import Receive, Send, plain, serve
from coformer_runtime import wire
from coformer_runtime.bundle import open_bundle
from coformer_runtime.cluster import LocalCluster
from coformer_runtime.engines import open_member
from coformer_runtime.exchange import Exchange
from coformer_runtime.listen import CHANNEL_OPTIONS, open_server
from coformer_runtime.manifest import Manifest
from coformer_runtime.security import LOOPBACK
from tests.runtime import bundles

RESULT = ROOT / "benchmarks" / "results" / "cluster_latency.json"
P50_MS, P99_MS = 2.5, 8.0
WARM_UP, STARTS = 200, 4


def pixels() -> np.ndarray:
    """The input, (1, 3, 224, 224) uint8."""
    return np.random.default_rng(0).integers(0, 256, PIXELS, dtype=np.uint8)


def machine() -> dict[str, Any]:
    """What the figures depend on besides the code: CPUs, how many wanted one just before, and with what priority."""
    realtime = os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR)
    return {"cpus": len(os.sched_getaffinity(0)), "load_before": round(os.getloadavg()[0], 2), "realtime": realtime}


def added(dirs: list[str], requests: int) -> dict[str, Any]:
    """Latency of the whole cluster over its slowest engine, in this request and alone."""
    each_ms = [row for _ in range(STARTS) for row in asked(dirs, requests // STARTS)]
    total, slowest, alone = (list(column) for column in zip(*each_ms, strict=True))
    median = float(np.median(alone))
    return {
        "latency_ms": quantiles(total),
        "engine_alone_ms": quantiles(alone),
        "added_ms": quantiles([ms - engine_ms for ms, engine_ms in zip(total, slowest, strict=True)]),
        "over_alone_ms": quantiles([ms - median for ms in total]),
    }


def asked(dirs: list[str], requests: int) -> Iterator[tuple[float, float, float]]:
    """Of each request to a cluster, in milliseconds: all of it, its slowest engine, and an engine alone after it."""
    array = pixels()
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(LocalCluster(dirs, deadline_ms=5000))
        client = stack.enter_context(cluster.client())
        engine = stack.enter_context(open_member(open_bundle(dirs[0]), 1))
        for number in range(WARM_UP + requests):
            started = time.perf_counter()
            answer = client.infer(array)
            answered = time.perf_counter()
            engine.run({"pixels": array})
            ended = time.perf_counter()
            if number >= WARM_UP:
                slowest_ms = max(answer.phases.compute_ms.values())
                yield (answered - started) * 1e3, slowest_ms, (ended - answered) * 1e3


def edge(dirs: list[str], requests: int) -> dict[str, Any]:
    """A round trip of the input and the features with both workers at once, in turns by stream, unary gRPC, and TCP."""
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(answering_process(path)) for path in dirs[1:]]
        manifests = [open_bundle(path).manifest for path in dirs[1:]]
        ways: dict[str, list[tuple[Send, Receive]]] = {name: [] for name in ("stream", "unary", "tcp")}
        for manifest, (address, socket_address) in zip(manifests, peers, strict=True):
            channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
            stack.callback(channel.close)
            ways["stream"].append(stack.enter_context(streamed(channel, manifest)))
            ways["unary"].append(unary(channel))
            ways["tcp"].append(stack.enter_context(plain(socket_address)))
        array, times = pixels(), {name: [] for name in ways}
        for number in range(1, WARM_UP + requests + 1):
            for name, both in ways.items():
                started = time.perf_counter()
                request = wire.tensor_frame(wire.REQUEST, number, manifests[0].build, array)
                data = wire.encode_frame(request)
                waiting = [(send(data), receive) for send, receive in both]
                for sent, receive in waiting:
                    frame = wire.decode_frame(receive(sent))
                    assert frame.kind == wire.FEATURES and frame.request_id == number
                if number > WARM_UP:
                    times[name].append((time.perf_counter() - started) * 1e3)
    return {name: quantiles(values) for name, values in times.items()}


@contextlib.contextmanager
def answering_process(bundle_dir: str) -> Iterator[tuple[str, str]]:
    """A process that answers with features at once, in all three ways; its addresses for gRPC and for sockets."""
    command = [sys.executable, __file__, "--answer", bundle_dir]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        address, socket_address = process.stdout.readline().split()
        yield address, socket_address
        process.stdin.close()


def answer_all(bundle_dir: str) -> int:
    """What such a process does until its standard input ends: no engine, the same features for every request."""
    manifest = open_bundle(bundle_dir).manifest
    features = np.ones(manifest.output.shape, np.float32)
    exchange = Exchange(manifest, lambda _: features, threading.Lock())

    def answer(data: bytes, context: object = None) -> bytes:
        request_id = wire.decode_frame(data).request_id
        return wire.encode_frame(wire.tensor_frame(wire.FEATURES, request_id, manifest.build, features))

    services = {
        wire.SERVICE: exchange.methods(),
        "bench.Unary": {"Ask": grpc.unary_unary_rpc_method_handler(answer)},
    }
    server, address = open_server(services, "127.0.0.1:0", LOOPBACK, 4)
    print(address, serve(answer), flush=True)
    sys.stdin.read()
    server.stop(0).wait()
    return 0


@contextlib.contextmanager
def streamed(channel: grpc.Channel, manifest: Manifest) -> Iterator[tuple[Send, Receive]]:
    """Our device edge, with its frames, its inbox and a thread that receives."""
    outgoing: queue.Queue[bytes | None] = queue.Queue()
    incoming: queue.Queue[bytes] = queue.Queue()
    outgoing.put(wire.encode_frame(wire.hello_frame(manifest, "bench")))
    call = channel.stream_stream(wire.METHOD)(iter(outgoing.get, None))
    next(call)

    def receive_all() -> None:
        with contextlib.suppress(grpc.RpcError):
            for data in call:
                incoming.put(data)

    threading.Thread(target=receive_all, daemon=True).start()
    yield outgoing.put, lambda sent: incoming.get()
    outgoing.put(None)
    call.cancel()


def unary(channel: grpc.Channel) -> tuple[Send, Receive]:
    """One gRPC call per request."""
    call = channel.unary_unary("/bench.Unary/Ask")
    return call.future, lambda sent: sent.result()


def main() -> int:
    """Run, print, write, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--output", type=Path, default=RESULT, help="where the raw figures go")
    parser.add_argument(
        "--answer", metavar="BUNDLE", help="serve the device edge's measurement; for this script itself"
    )
    options = parser.parse_args()
    if options.answer is not None:
        return answer_all(options.answer)
    with tempfile.TemporaryDirectory() as directory:
        dirs = bundles.make_cluster(Path(directory) / "cluster", pixels=PIXELS)
        measured: dict[str, Any] = {
            "input_bytes": int(np.prod(PIXELS)),
            "machine": machine(),
            **added(dirs, options.requests),
            "edge_ms": edge(dirs, options.requests),
        }
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(measured, indent=2, sort_keys=True) + "\n")
    for name in ("latency_ms", "engine_alone_ms", "added_ms", "over_alone_ms"):
        print(f"{name}: {measured[name]}")
    for name, values in measured["edge_ms"].items():
        print(f"device edge, {name}: {values} ms")
    added_ms = [measured[name] for name in ("added_ms", "over_alone_ms")]
    return 1 if any(each["p50"] > P50_MS or each["p99"] > P99_MS for each in added_ms) else 0


if __name__ == "__main__":
    sys.exit(main())
