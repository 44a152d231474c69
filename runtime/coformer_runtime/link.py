"""One worker as the central node sees it: a persistent stream, opened again whenever it breaks."""

import itertools
import queue
import threading
import time
from concurrent.futures import Future
from typing import Any, Callable, Dict, Iterator, NamedTuple, Optional, Sequence, Tuple

from . import __version__, wire
from .errors import CoformerError
from .failures import log, report
from .link_rate import LinkRate
from .listen import CHANNEL_OPTIONS, HANDSHAKE_S
from .manifest import Manifest, TensorSpec
from .members import AWAY, BROKEN, BUSY, LATE, MAX_IN_FLIGHT, Reply, failed, resolved
from .security import LOOPBACK, NODE_NAME, Security, open_channel

# Python 3.6 has no SimpleQueue, to which putting something costs far less.
open_queue: "Callable[[], queue.Queue[Optional[bytes]]]" = getattr(queue, "SimpleQueue", queue.Queue)
RETRY_S = 0.1
FIRST_ECHO = 1 << 62  # ids of requests count from 1
FIRST_ECHOES, ECHO_EVERY_S = 4, 1.0
LINK_OPTIONS = CHANNEL_OPTIONS + [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_permit_without_calls", 1),
]


class _Asked(NamedTuple):
    """A request that waits for its reply; `data` is the encoded frame, to be sent again if the stream breaks."""

    future: "Future[Reply]"
    data: bytes
    deadline: float
    again: bool = False


class WorkerLink:
    """One worker's stream: opened, greeted, and opened again whenever it breaks, until `close`.

    What waits for a reply when a stream breaks as UNAVAILABLE is asked a second time if the worker can be reached
    again at once, and fails otherwise.

    Args:
        channel: a gRPC channel to the worker; the link closes it.
        address: HOST:PORT of the worker, for messages.
        manifest: the central node's.
        expected: the device that must answer there, or None for any of the others.
        claim: called with (link, greeting): sets `member` and `claimed`, or returns why the worker is refused.
        metadata: what each call carries.
        pushed: called with (request id, member, reply) for what a client has asked the worker for.
        rate: is told how long empty messages are under way; None: none are sent.

    Attributes:
        member: index of the member that answers there; None until the first accepted hello.
        claimed: whether that member is this link's and no other's now.
        tried: set once the first conversation has begun or failed.
        problem: why it cannot be asked now; None while it can.
        retried: how many requests were sent a second time.
    """

    def __init__(
        self,
        channel: Any,
        address: str,
        manifest: Manifest,
        expected: Optional[str],
        claim: Callable[["WorkerLink", wire.Greeting], Optional[str]],
        metadata: Sequence[Tuple[str, str]] = (),
        pushed: Callable[[int, int, Reply], None] = lambda request_id, member, reply: None,
        rate: Optional[LinkRate] = None,
    ) -> None:
        self.address, self.expected = address, expected
        self.member: Optional[int] = None
        self.claimed = False
        self.tried = threading.Event()
        self.problem: Optional[str] = "not reached yet at {}".format(address)
        self.retried = 0
        self._logged, self._details = "", ""
        self._manifest, self._claim, self._metadata, self._pushed = manifest, claim, metadata, pushed
        self._lock = threading.Lock()
        self._rate, self._echo_ids, self._next_echo = rate, itertools.count(FIRST_ECHO), 0.0
        self._echoes: "Dict[int, Future[Reply]]" = {}
        self._pending: Dict[int, _Asked] = {}
        self._outgoing = open_queue()
        self._closing = threading.Event()
        self._call: Any = None
        self._channel = channel
        self._thread = threading.Thread(target=self._keep, name="link " + address, daemon=True)
        self._thread.start()

    def ask(self, request_id: int, data: bytes, deadline: float) -> "Future[Reply]":
        """Send one encoded REQUEST frame.

        The future resolves when the worker answers or the stream breaks; it counts as in flight until then, also
        when it was cancelled: the backlog of a stalled worker stays bounded.

        Args:
            request_id: the frame's.
            data: the encoded frame.
            deadline: time.monotonic() seconds until which asking again makes sense.
        """
        with self._lock:
            if self.problem is not None:
                return resolved(failed(self.problem, AWAY))
            if len(self._pending) >= MAX_IN_FLIGHT:
                return resolved(failed("busy: {} requests wait for it".format(MAX_IN_FLIGHT), BUSY))
            future: "Future[Reply]" = Future()
            self._pending[request_id] = _Asked(future, data, deadline)
            self._outgoing.put(data)
        return future

    def cancel(self, request_id: int) -> None:
        """Tell the worker that nobody waits for this request any more."""
        frame = wire.Frame(wire.CANCEL, request_id, self._manifest.build, member=self._manifest.member)
        with self._lock:
            if request_id in self._pending and self.problem is None:
                self._outgoing.put(wire.encode_frame(frame))

    def echo(self, size_bytes: int) -> "Future[Reply]":
        """Send a message of this size that is answered at once by one of none; a reply without features: it was not."""
        with self._lock:
            if self.problem is not None:
                return resolved(failed(self.problem, AWAY))
            request_id = next(self._echo_ids)
            future: "Future[Reply]" = Future()
            self._echoes[request_id] = future
            frame = wire.Frame(wire.ECHO, request_id, self._manifest.build, bytes(size_bytes))
            self._outgoing.put(wire.encode_frame(frame))
        return future

    def _measure_round_trip(self, times: int = 1) -> None:
        """Send empty messages, one after the other has come back, where somebody measures."""
        rate, started = self._rate, time.monotonic()
        if rate is None:
            return
        self._next_echo = started + ECHO_EVERY_S

        def came(future: "Future[Reply]") -> None:
            if future.result().features is not None:
                rate.round_trip(future.result().arrived - started)
                if times > 1:
                    self._measure_round_trip(times - 1)

        self.echo(0).add_done_callback(came)

    def in_flight(self) -> int:
        """Return how many requests wait for a reply."""
        return len(self._pending)

    def close(self) -> None:
        """End the conversation and its thread."""
        self._closing.set()
        with self._lock:
            call = self._call
        if call is not None:
            call.cancel()
        self._thread.join()
        self._channel.close()

    def _keep(self) -> None:
        while not self._closing.is_set():
            try:
                problem, unavailable = self._converse()
            except Exception as error:  # noqa: BLE001 - the thread goes on, the log has the trace
                problem, unavailable = "internal error {}".format(report("link " + self.address, error)), False
            if not self._break_off(problem, unavailable):
                self._closing.wait(RETRY_S)

    def _break_off(self, problem: str, unavailable: bool) -> bool:
        """Fail what waits, but for what may be asked a second time; return whether there is any such."""
        now = time.monotonic()
        if problem != self._logged and not self._closing.is_set():
            self._logged = problem
            log("worker away", {"worker": self.address, "reason": problem, "details": self._details})
        self._details = ""
        with self._lock:
            self.problem, self.claimed = problem, False
            self.tried.set()
            pending, self._pending = self._pending, {}
            echoes, self._echoes = self._echoes, {}
            if unavailable and not self._closing.is_set():
                self._pending = {
                    request_id: asked._replace(again=True)
                    for request_id, asked in pending.items()
                    if not asked.again and asked.deadline > now
                }
            again = bool(self._pending)
            lost = [asked for request_id, asked in pending.items() if request_id not in self._pending]
        reply = failed(problem, BROKEN)
        for future in [asked.future for asked in lost] + list(echoes.values()):
            future.set_result(reply)
        return again

    def _take_up(self, outgoing: "queue.Queue[Optional[bytes]]") -> None:
        """Begin to ask on a stream that was greeted, first of all what the last one left."""
        self._logged = ""
        log("worker up", {"worker": self.address, "device": self._manifest.members[self.member or 0]})
        with self._lock:
            self.problem, self._outgoing = None, outgoing
            self.tried.set()
            now = time.monotonic()
            for asked in self._pending.values():
                outgoing.put(wire.with_budget(asked.data, max(1, int((asked.deadline - now) * 1e3))))
                self.retried += 1
        self._measure_round_trip(FIRST_ECHOES)

    def _converse(self) -> Tuple[str, bool]:
        """Hold one conversation to its end; return why it ended, and whether it was that the worker is unavailable."""
        import grpc

        outgoing = open_queue()
        outgoing.put(wire.encode_frame(wire.hello_frame(self._manifest, __version__)))
        requests: Iterator[Optional[bytes]] = iter(outgoing.get, None)
        call = self._channel.stream_stream(wire.METHOD)(requests, metadata=self._metadata)
        with self._lock:
            self._call = call
        if self._closing.is_set():
            call.cancel()
        timer = threading.Timer(HANDSHAKE_S, call.cancel)
        timer.daemon = True
        timer.start()
        try:
            greeting = wire.frame_greeting(wire.decode_frame(next(call)))
            timer.cancel()
            refusal = self._claim(self, greeting)
            if refusal is not None:
                return refusal, False
            self._take_up(outgoing)
            for data in call:
                self._receive(wire.decode_frame(data))
            return "unreachable: {} ended the conversation".format(self.address), False
        except StopIteration:
            return "unreachable: {} answered no hello".format(self.address), False
        except grpc.RpcError as error:
            return self._broken(error), error.code() == grpc.StatusCode.UNAVAILABLE
        except CoformerError as error:
            return "{} does not speak this protocol ({})".format(self.address, error.what), False
        finally:
            timer.cancel()
            outgoing.put(None)
            call.cancel()

    def _broken(self, error: Any) -> str:
        import grpc

        if error.code() == grpc.StatusCode.CANCELLED and self.problem is not None:
            return "unreachable: {} sent no hello within {:g} s".format(self.address, HANDSHAKE_S)
        # The library's own words are for the log: what is returned here is told to clients too.
        self._details = _short(error.details() or "")
        return "unreachable: {} ({})".format(self.address, error.code().name.lower().replace("_", " "))

    def _receive(self, frame: wire.Frame) -> None:
        arrived = time.monotonic()
        if frame.kind == wire.ECHO:
            self._receive_echo(frame.request_id, arrived)
            return
        if frame.kind == wire.FAILURE:
            error = wire.frame_error(frame)
            reply = failed(error.what, LATE if frame.status in (wire.LATE, wire.CANCELLED) else BROKEN)
            if frame.request_id == 0:
                raise error
        elif frame.kind != wire.FEATURES or frame.build != self._manifest.build:
            raise CoformerError("a frame of kind {}".format(frame.kind), self.address, wire.MEND)
        else:
            compute_ms, waited_ms = frame.compute_us / 1e3, frame.waited_us / 1e3
            reply = Reply(wire.frame_tensor(frame), "", "", compute_ms, arrived, waited_ms)
        with self._lock:
            asked = self._pending.pop(frame.request_id, None)
        if asked is not None:
            asked.future.set_result(reply)
        elif frame.request_id & wire.BROADCAST and self.member is not None:
            self._pushed(frame.request_id, self.member, reply)
        if arrived > self._next_echo and not self._pending:
            self._measure_round_trip()

    def _receive_echo(self, request_id: int, arrived: float) -> None:
        import numpy

        with self._lock:
            future = self._echoes.pop(request_id, None)
        if future is not None:
            future.set_result(Reply(numpy.empty(0, numpy.uint8), arrived=arrived))


def open_link(
    address: str,
    manifest: Manifest,
    expected: Optional[str],
    claim: Callable[[WorkerLink, wire.Greeting], Optional[str]],
    security: Security = LOOPBACK,
    pushed: Callable[[int, int, Reply], None] = lambda request_id, member, reply: None,
    rate: Optional[LinkRate] = None,
) -> WorkerLink:
    """Return a link to the worker at HOST:PORT; see WorkerLink."""
    channel = open_channel(address, security, LINK_OPTIONS, expected or NODE_NAME)
    return WorkerLink(channel, address, manifest, expected, claim, security.metadata(), pushed, rate)


def greeting_refusal(
    greeting: wire.Greeting, link: WorkerLink, manifest: Manifest, features: Dict[int, TensorSpec]
) -> Optional[str]:
    """Return why a worker's hello is not that of a member of this cluster, or None.

    Args:
        greeting: what the worker said.
        link: where it said so.
        manifest: the central node's.
        features: member index → the tensor that the aggregator takes from that member.
    """
    if greeting.build != manifest.build:
        return "another build: {} serves '{}' of build {}..., this cluster is build {}...".format(
            link.address, greeting.device, greeting.build[:12], manifest.build[:12]
        )
    if greeting.member >= len(manifest.members) or manifest.members[greeting.member] != greeting.device:
        return "{} serves '{}' as member {}, which this cluster does not have".format(
            link.address, greeting.device, greeting.member
        )
    if greeting.member == manifest.member:
        return "{} serves '{}', which is this node itself".format(link.address, greeting.device)
    if link.expected is not None and greeting.device != link.expected:
        return "another member: {} serves '{}', not '{}'".format(link.address, greeting.device, link.expected)
    taken = features[greeting.member]
    wanted: Tuple[Any, ...] = (manifest.input, taken.dtype, taken.shape)
    if (greeting.input, greeting.output.dtype, greeting.output.shape) != wanted:
        return "{} maps {} to {}, the aggregator wants {}".format(link.address, greeting.input, greeting.output, taken)
    if greeting.shapes != wire.further_shapes(manifest):
        return "{} has other profiles than this node: {}".format(
            link.address, ", ".join(str(list(shape)) for shape in greeting.shapes) or "none"
        )
    return None


def _short(text: str) -> str:
    return text if len(text) <= 200 else text[:197] + "..."
