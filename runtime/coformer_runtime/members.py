"""The members as the central node sees them: its own engine, and one persistent stream per worker.

Both kinds answer `ask` with a future Reply; neither raises for a member that fails, because a failed member
is an outcome that the gathering counts, not an error of the request.
"""

import queue
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Callable, Dict, Iterator, NamedTuple, Optional, Tuple

from . import __version__, wire
from .arrays import Array
from .engines import Engine
from .errors import CoformerError
from .failures import report
from .listen import CHANNEL_OPTIONS
from .manifest import Manifest, TensorSpec

MAX_IN_FLIGHT = 32
HANDSHAKE_S = 5.0
RETRY_S = 0.1
LINK_OPTIONS = CHANNEL_OPTIONS + [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_permit_without_calls", 1),
]


class Reply(NamedTuple):
    """What one member made of one request: features, or the reason why there are none.

    Attributes:
        features: `(1, d_n)`, or None.
        failure: why there are none, "" otherwise.
        late: whether the failure is that time ran out.
        compute_ms: the engine's run.
        arrived: time.monotonic() when the reply was there.
    """

    features: Optional[Array]
    failure: str = ""
    late: bool = False
    compute_ms: float = 0.0
    arrived: float = 0.0


def failed(failure: str, late: bool = False) -> Reply:
    """Return the reply of a member that has no features, for this reason."""
    return Reply(None, failure, late, 0.0, time.monotonic())


class OwnMember:
    """The central node's own engine, on a thread of its own so that waiting for it is bounded as well."""

    def __init__(self, engine: Engine, manifest: Manifest) -> None:
        self._engine, self._manifest = engine, manifest
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._in_flight = threading.BoundedSemaphore(MAX_IN_FLIGHT)

    def ask(self, array: Array, deadline: float) -> "Future[Reply]":
        """Run the engine before `deadline` (time.monotonic() seconds), after what was asked earlier."""
        if not self._in_flight.acquire(blocking=False):
            return _done(failed("busy: {} requests wait for its engine".format(MAX_IN_FLIGHT)))
        future = self._pool.submit(self._run, array, deadline)
        future.add_done_callback(lambda _: self._in_flight.release())
        return future

    def _run(self, array: Array, deadline: float) -> Reply:
        started = time.monotonic()
        if started > deadline:
            return failed("late: its engine was not free in time", late=True)
        try:
            features = self._engine.run({self._manifest.input.name: array})[self._manifest.output.name]
        except Exception as error:  # noqa: BLE001 - whatever an engine raises is a failed member
            return failed("its engine failed, look for {} in its log".format(report("engine", error)))
        ended = time.monotonic()
        return Reply(features, compute_ms=(ended - started) * 1e3, arrived=ended)

    def close(self) -> None:
        """Wait for the running inference and free the engine."""
        self._pool.shutdown(wait=True)
        self._engine.close()


class WorkerLink:
    """One worker's stream: opened, greeted, and opened again whenever it breaks, until `close`.

    Args:
        address: HOST:PORT of the worker.
        manifest: the central node's.
        expected: the device that must answer there, or None for any of the others.
        claim: called with (link, greeting): sets `member` and `claimed`, or returns why the worker is refused.

    Attributes:
        member: index of the member that answers there; None until the first accepted hello.
        claimed: whether that member is this link's and no other's now.
        tried: set once the first conversation has begun or failed.
        problem: why it cannot be asked now; None while it can.
    """

    def __init__(
        self,
        address: str,
        manifest: Manifest,
        expected: Optional[str],
        claim: Callable[["WorkerLink", wire.Greeting], Optional[str]],
    ) -> None:
        import grpc

        self.address, self.expected = address, expected
        self.member: Optional[int] = None
        self.claimed = False
        self.tried = threading.Event()
        self.problem: Optional[str] = "not reached yet at {}".format(address)
        self._manifest, self._claim = manifest, claim
        self._lock = threading.Lock()
        self._pending: Dict[int, Optional["Future[Reply]"]] = {}
        self._outgoing: "queue.Queue[Optional[bytes]]" = queue.Queue()
        self._closing = threading.Event()
        self._call: Any = None
        self._channel = grpc.insecure_channel(address, options=LINK_OPTIONS)
        self._thread = threading.Thread(target=self._keep, name="link " + address, daemon=True)
        self._thread.start()

    def ask(self, request_id: int, data: bytes) -> "Future[Reply]":
        """Send one encoded REQUEST frame; the future resolves when the worker answers or the stream breaks."""
        future: "Future[Reply]" = Future()
        with self._lock:
            if self.problem is not None:
                return _done(failed(self.problem))
            if len(self._pending) >= MAX_IN_FLIGHT:
                return _done(failed("busy: {} requests wait for it".format(MAX_IN_FLIGHT)))
            self._pending[request_id] = future
            self._outgoing.put(data)
        return future

    def forget(self, request_id: int) -> None:
        """Ignore the answer to a request.

        It counts as in flight until the answer comes: the backlog of a stalled worker stays bounded.
        """
        with self._lock:
            if request_id in self._pending:
                self._pending[request_id] = None

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
                problem = self._converse()
            except Exception as error:  # noqa: BLE001 - the thread goes on, the log has the trace
                problem = "internal error {}".format(report("link " + self.address, error))
            with self._lock:
                self.problem, self.claimed = problem, False
                self.tried.set()
                pending, self._pending = self._pending, {}
            for future in pending.values():
                if future is not None:
                    future.set_result(failed(problem))
            self._closing.wait(RETRY_S)

    def _converse(self) -> str:
        """Hold one conversation to its end and return why it ended."""
        import grpc

        outgoing: "queue.Queue[Optional[bytes]]" = queue.Queue()
        outgoing.put(wire.encode_frame(wire.hello_frame(self._manifest, __version__)))
        requests: Iterator[Optional[bytes]] = iter(outgoing.get, None)
        call = self._channel.stream_stream(wire.METHOD)(requests)
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
                return refusal
            with self._lock:
                self.problem, self._outgoing = None, outgoing
                self.tried.set()
            for data in call:
                self._receive(wire.decode_frame(data))
            return "unreachable: {} ended the conversation".format(self.address)
        except StopIteration:
            return "unreachable: {} answered no hello".format(self.address)
        except grpc.RpcError as error:
            return self._broken(error)
        except CoformerError as error:
            return "{} does not speak this protocol ({})".format(self.address, error.what)
        finally:
            timer.cancel()
            outgoing.put(None)
            call.cancel()

    def _broken(self, error: Any) -> str:
        import grpc

        if error.code() == grpc.StatusCode.CANCELLED and self.problem is not None:
            return "unreachable: {} sent no hello within {:g} s".format(self.address, HANDSHAKE_S)
        return "unreachable: {} ({})".format(self.address, _short(error.details() or str(error.code())))

    def _receive(self, frame: wire.Frame) -> None:
        arrived = time.monotonic()
        if frame.kind == wire.FAILURE:
            error = wire.frame_error(frame)
            reply = failed(error.what, late=frame.status == wire.LATE)
            if frame.request_id == 0:
                raise error
        elif frame.kind != wire.FEATURES or frame.build != self._manifest.build:
            raise CoformerError("a frame of kind {}".format(frame.kind), self.address, wire.MEND)
        else:
            reply = Reply(wire.frame_tensor(frame), "", False, frame.compute_us / 1e3, arrived)
        with self._lock:
            future = self._pending.pop(frame.request_id, None)
        if future is not None:
            future.set_result(reply)


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
    return None


def _done(reply: Reply) -> "Future[Reply]":
    future: "Future[Reply]" = Future()
    future.set_result(reply)
    return future


def _short(text: str) -> str:
    return text if len(text) <= 200 else text[:197] + "..."
