"""Where fuzzed messages go: through the handlers that gRPC calls, in one process, so that every byte is looked at.

A target raises a `Fault` for what is looked for: a handler that takes a second, or one that tells a caller of Python or
of nothing but an internal error. Any other exception than the handler's own refusal is a fault as well.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from coformer_runtime import link as link_module
from coformer_runtime import wire
from coformer_runtime.aggregators import Aggregators
from coformer_runtime.bundle import Bundle
from coformer_runtime.central import Central
from coformer_runtime.exchange import Exchange
from coformer_runtime.front import Front
from coformer_runtime.health import SERVICE as HEALTH
from coformer_runtime.health import Health
from coformer_runtime.link import WorkerLink
from coformer_runtime.manifest import Manifest
from coformer_runtime.oip import STREAM, messages
from coformer_runtime.roster import Roster
from coformer_runtime.submit import submitting
from tests.runtime import bundles

ALLOWED_S = 1.0
UNMASKED = ("Traceback", ".py", "Error(", "object at 0x")
INTERNAL = "internal error"
# A message to a central node begins with the place of its method here: what is added goes to the end, for the corpus.
METHODS = (
    "ModelInfer", "ModelMetadata", "ModelConfig", "ModelReady", "ServerMetadata", "ServerReady", "ServerLive",
    STREAM, "Check", "Watch",
)  # fmt: skip
KINDS = {wire.HELLO: "hello", wire.FEATURES: "features", wire.ECHO: "echo"}

Infer = Callable[[Any], Any]


class Looked:
    """How many messages a node has looked at: a stream ends with the first one that is malformed."""

    def __init__(self) -> None:
        self.messages = 0

    def at(self, frames: list[bytes]) -> Iterator[bytes]:
        """Yield them, counting."""
        for frame in frames:
            self.messages += 1
            yield frame


class Target(NamedTuple):
    """Where fuzzed messages go: `send` takes bytes, and returns a word or two for what was made of each message."""

    send: Callable[[bytes], list[str]]
    looked: Looked

    def __call__(self, data: bytes) -> list[str]:
        """Send."""
        return self.send(data)


class Fault(Exception):
    """What is looked for: a crash, a hang, or a refusal that is not masked."""


class Refused(Exception):
    """What gRPC's own abort raises."""


class Context:
    """The part of gRPC's context that the handlers use; remembers the status."""

    def __init__(self) -> None:
        self.code, self.details = "OK", ""

    def time_remaining(self) -> None:
        """No limit."""

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Nobody hangs up."""
        return True

    def set_trailing_metadata(self, metadata: Any) -> None:
        """Not looked at: it says the same as the details."""

    def auth_context(self) -> dict[str, list[bytes]]:
        """No TLS."""
        return {}

    def cancel(self) -> None:
        """A stream that takes too long."""

    def abort(self, code: Any, details: str) -> None:
        """Remember the status and leave the handler."""
        self.code, self.details = code.name, details
        raise Refused


def judge(unmasked: bool, told: str, started: float) -> None:
    """Raise a Fault for what a caller was told, or how long it took since `started` (time.monotonic() seconds)."""
    took_s = time.monotonic() - started
    if unmasked or any(mark in told for mark in UNMASKED) or took_s > ALLOWED_S:
        raise Fault(f"{told} after {took_s:.2f} s")


def frames_of(data: bytes) -> list[bytes]:
    """The messages of a stream, each behind its length (4 bytes, little-endian); what goes beyond the end is cut."""
    frames = []
    while len(data) >= 4:
        size = int.from_bytes(data[:4], "little")
        frames.append(data[4 : 4 + size])
        data = data[4 + size :]
    return frames


def stream_of(frames: list[bytes]) -> bytes:
    """The inverse of `frames_of`."""
    return b"".join(len(frame).to_bytes(4, "little") + frame for frame in frames)


def central_target(central: Central) -> Target:
    """One message, or one stream of them, to a central node: its first byte chooses the method; returns the status."""
    handlers, looked = {**Front(central).methods(), **Health((HEALTH,), central.ready).methods()}, Looked()

    def send(data: bytes) -> list[str]:
        context, started = Context(), time.monotonic()
        method = METHODS[data[0] % len(METHODS) if data else 0]
        handler, body = handlers[method], data[1:]
        if method == STREAM:
            return _streamed(handler.stream_stream(looked.at(frames_of(body)), context), started)
        looked.messages += 1
        with contextlib.suppress(Refused):
            if method == "Watch":  # the first word of it: the next comes with a change
                watching = handler.unary_stream(body, context)
                next(watching)
                watching.close()
            else:
                handler.unary_unary(body, context)
        judge(context.code == "INTERNAL", context.details, started)
        return [context.code]

    return Target(send, looked)


def _streamed(responses: Iterator[bytes], started: float) -> list[str]:
    """What the responses of a stream of texts say, each within its time."""
    kinds = []
    for data in responses:
        told = messages()["ModelStreamInferResponse"].FromString(data).error_message
        status = told[1:].partition("]")[0] if told else "token"
        judge(status == "INTERNAL", told, started)
        kinds.append(f"stream {status}")
        started = time.monotonic()
    return kinds


def features_of_hall(array: Any) -> Any:
    """What the engine of `bundles`' second device computes."""
    return bundles.features_of(1, np.array(array))


def worker_target(
    manifest: Manifest,
    infer: Infer = features_of_hall,
    others: tuple[tuple[Manifest, Infer], ...] = (),
    may_fail: bool = False,
) -> Target:
    """One stream of frames to a worker; returns the kinds of replies. The first frame is tried as a client's as well.

    Args:
        manifest: of what it serves.
        infer: its engine.
        others: of the other builds that it serves.
        may_fail: whether there are requests that its engine refuses; then it says so, with an id.
    """
    free = threading.Lock()
    exchange = Exchange(manifest, infer, free, None, [Exchange(each, run, free) for each, run in others])
    submit, looked = submitting(exchange), Looked()

    def send(data: bytes) -> list[str]:
        kinds, started, context = [], time.monotonic(), Context()
        frames = frames_of(data)
        for reply in exchange.converse(looked.at(frames), context):
            frame = wire.decode_frame(reply)
            kinds.append(KINDS.get(frame.kind, f"failure {frame.status}"))
            told = str(wire.frame_error(frame)) if frame.kind == wire.FAILURE else ""
            judge(frame.status == wire.ENGINE_FAILED and not may_fail, told, started)
        for frame_bytes in frames[:1]:
            with contextlib.suppress(Refused):
                submit(frame_bytes, context)
            kinds.append(f"submit {context.code}")
            judge(context.code == "INTERNAL", context.details, started)
        return kinds

    return Target(send, looked)


class Conversation:
    """What a worker says on one stream; `asked` is called once its hello was taken."""

    def __init__(self, frames: Iterator[bytes], asked: Callable[[], None]) -> None:
        self._frames, self._asked, self._said = frames, asked, 0

    def __iter__(self) -> Conversation:
        return self

    def __next__(self) -> bytes:
        self._said += 1
        if self._said == 2:
            self._asked()
        return next(self._frames)

    def cancel(self) -> None:
        """It ends by itself."""


class Cable:
    """In place of a gRPC channel to a worker: each stream that is opened is the next conversation."""

    def __init__(self) -> None:
        self.next: queue.Queue[Conversation] = queue.Queue()
        self.idle: queue.Queue[None] = queue.Queue()  # has one more whenever a conversation has been dealt with

    def stream_stream(self, method: str) -> Callable[..., Conversation]:
        """Return what opens a stream."""

        def call(requests: Any, metadata: Any) -> Conversation:
            self.idle.put(None)
            return self.next.get()

        return call

    def close(self) -> None:
        """Nothing is open."""


@contextlib.contextmanager
def link_target(bundle: Bundle) -> Iterator[Target]:
    """One stream of frames from a worker to the central node's link; returns what became of what it was asked.

    Whatever the worker says, the link goes on to the next stream, every request that waits gets its reply, and what the
    reply holds is looked at as the central node does.
    """
    aggregators, cable = Aggregators(bundle, None), Cable()
    aggregators.open()
    manifest = bundle.manifest
    roster = Roster(manifest, aggregators.features)
    request = wire.encode_frame(wire.tensor_frame(wire.REQUEST, 5, manifest.build, bundles.golden_pixels()[:1], 1000))
    patience_s, link_module.RETRY_S = link_module.RETRY_S, 0.0
    pushed: list[str] = []
    looked = Looked()

    def push(request_id: int, member: int, reply: Any) -> None:
        pushed.append(f"pushed {aggregators.checked(member, reply, 1).cause or 'features'}")

    link = WorkerLink(cable, "worker", manifest, None, roster._claim, pushed=push)
    roster.links.append(link)
    cable.idle.get(timeout=ALLOWED_S)

    def send(data: bytes) -> list[str]:
        waiting: list[Any] = []

        def ask() -> None:
            if link.problem is None:
                waiting.extend(link.ask(number, request, time.monotonic() + 1) for number in (5, 6))
                waiting.append(link.echo(0))
                link.cancel(6)

        started = time.monotonic()
        pushed.clear()
        cable.next.put(Conversation(looked.at(frames_of(data)), ask))
        try:
            cable.idle.get(timeout=5 * ALLOWED_S)
        except queue.Empty:
            raise Fault("the link hangs") from None
        problem = link.problem or ""
        judge(not problem or INTERNAL in problem or not all(each.done() for each in waiting), problem, started)
        kinds = ["claimed" if waiting else "refused", *pushed]
        for future in waiting[:2]:
            reply = aggregators.checked(link.member or 0, future.result(), 1)
            judge(INTERNAL in reply.failure, reply.failure, started)
            kinds.append(reply.cause or "features")
        return kinds

    try:
        yield Target(send, looked)
    finally:
        link_module.RETRY_S = patience_s
        link._closing.set()
        cable.next.put(Conversation(iter(()), lambda: None))
        link.close()
        aggregators.close()
