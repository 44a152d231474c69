"""Nodes of a cluster without any logic of ours, for bare.py: bytes in, an engine, features out.

Usage: python benchmarks/service/bare_nodes.py BUNDLE KIND [--link LINK] [--worker HOST:PORT ...]

KIND is what it serves with: "sync" (grpc.server, threads), "aio" (grpc.aio), or "tcp" (sockets, threads). With workers
it is a central node: it sends what it is asked to each of them over LINK ("stream": one that lasts; "unary": a call
each), runs its own engine meanwhile, and answers with the features of all. Prints its address; ends with its standard
input.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import queue
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "runtime")]

import grpc
import numpy as np

from benchmarks.service import sockets
from coformer_runtime.bundle import open_bundle
from coformer_runtime.engines import Engine, open_member
from coformer_runtime.listen import CHANNEL_OPTIONS, SERVER_OPTIONS

SERVICE = "bench.Bare"
UNARY, STREAM = f"/{SERVICE}/Unary", f"/{SERVICE}/Stream"
THREADS = 8

Run = Callable[[bytes], bytes]  # input → features
Ask = Callable[[bytes], Callable[[], bytes]]  # sends, and returns what waits for the reply
AskAsync = Callable[[bytes], Awaitable[bytes]]


def runner(engine: Engine) -> Run:
    """What every node does with an input, and nothing else."""
    (taken,), (given,) = engine.inputs, engine.outputs

    def run(data: bytes) -> bytes:
        array = np.frombuffer(data, np.uint8).reshape(taken.shape)
        return engine.run({taken.name: array})[given.name].tobytes()

    return run


def threaded_ask(address: str, link: str, stack: contextlib.ExitStack) -> Ask:
    """How a node with threads asks a worker."""
    if link == "tcp":
        send, receive = stack.enter_context(sockets.plain(address))

        def by_socket(data: bytes) -> Callable[[], bytes]:
            send(data)
            return lambda: receive(None)

        return by_socket
    channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
    stack.callback(channel.close)
    if link == "unary":
        pool, call = ThreadPoolExecutor(1), channel.unary_unary(UNARY)
        return lambda data: pool.submit(call, data).result
    outgoing: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    replies = channel.stream_stream(STREAM)(iter(outgoing.get, None))

    def by_stream(data: bytes) -> Callable[[], bytes]:
        outgoing.put(data)
        return lambda: next(replies)

    return by_stream


def threaded_answer(run: Run, asks: list[Ask]) -> Run:
    """A request to a node with threads: all workers, the own engine, all replies."""

    def answer(data: bytes) -> bytes:
        waiting = [ask(data) for ask in asks]
        return b"".join([run(data), *(reply() for reply in waiting)])

    return answer


def serve_threads(kind: str, answer: Run, stack: contextlib.ExitStack) -> str:
    """Serve on grpc.server, or on sockets; return the address."""
    if kind == "tcp":
        return sockets.serve(answer)

    def converse(requests: Iterator[bytes], context: object) -> Iterator[bytes]:
        yield from map(answer, requests)

    server = grpc.server(ThreadPoolExecutor(THREADS), options=SERVER_OPTIONS)
    unary = grpc.unary_unary_rpc_method_handler(lambda data, context: answer(data))
    server.add_generic_rpc_handlers((handlers(unary, grpc.stream_stream_rpc_method_handler(converse)),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    stack.callback(lambda: server.stop(0).wait())
    return f"127.0.0.1:{port}"


def handlers(unary: Any, stream: Any) -> Any:
    """Both methods, for a server of either kind."""
    return grpc.method_handlers_generic_handler(SERVICE, {"Unary": unary, "Stream": stream})


def ask_async(address: str, link: str) -> AskAsync:
    """How a node with an event loop asks a worker."""
    channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
    if link == "unary":
        by_call: AskAsync = channel.unary_unary(UNARY)
        return by_call
    call = channel.stream_stream(STREAM)()

    async def by_stream(data: bytes) -> bytes:
        await call.write(data)
        reply: bytes = await call.read()
        return reply

    return by_stream


async def serve_async(run: Run, link: str, workers: list[str]) -> None:
    """Serve on grpc.aio until standard input ends."""
    loop = asyncio.get_running_loop()
    asks = [ask_async(address, link) for address in workers]

    async def answer(data: bytes, context: object) -> bytes:
        if not asks:
            return run(data)
        theirs = [asyncio.ensure_future(ask(data)) for ask in asks]
        own = await loop.run_in_executor(None, run, data)
        return b"".join([own, *await asyncio.gather(*theirs)])

    async def converse(requests: AsyncIterator[bytes], context: object) -> AsyncIterator[bytes]:
        async for data in requests:
            yield await answer(data, context)

    server = grpc.aio.server(options=SERVER_OPTIONS)
    unary, stream = grpc.unary_unary_rpc_method_handler(answer), grpc.stream_stream_rpc_method_handler(converse)
    server.add_generic_rpc_handlers((handlers(unary, stream),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    ended = asyncio.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), loop.call_soon_threadsafe(ended.set)), daemon=True).start()
    await ended.wait()
    await server.stop(0)


def main() -> int:
    """Open the engine, serve until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("kind", choices=("sync", "aio", "tcp"))
    parser.add_argument("--link", choices=("stream", "unary", "tcp"), default="stream")
    parser.add_argument("--worker", action="append", default=[])
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        run = runner(stack.enter_context(open_member(open_bundle(options.bundle), 1)))
        if options.kind == "aio":
            asyncio.run(serve_async(run, options.link, options.worker))
            return 0
        asks = [threaded_ask(address, options.link, stack) for address in options.worker]
        print(serve_threads(options.kind, threaded_answer(run, asks), stack), flush=True)
        sys.stdin.read()
    return 0


if __name__ == "__main__":
    sys.exit(main())
