"""The worker's end of the device edge: reads ahead on each stream, so that what is cancelled is never begun."""

import collections
import threading
import time
from typing import Any, Callable, Deque, Dict, Iterator, NamedTuple, Optional, Sequence, Set

from . import __version__, wire
from .arrays import Array
from .decoder import DTYPE, HEAD, SessionGone
from .errors import CoformerError
from .failures import report
from .fitting import check_numbers
from .listen import HANDSHAKE_S
from .manifest import Manifest
from .manifest_profiles import shapes_of
from .observe_worker import WorkerCounts
from .security import is_node

MAX_WAITING = 64  # twice what a central node has in flight, so that its cancels are read while requests wait
MAX_STREAMS = 8  # central nodes at a time


class Item(NamedTuple):
    """A frame that was received, or why it is none, or an encoded one to send.

    `arrived` is in time.monotonic() seconds.
    """

    arrived: float
    frame: Optional[wire.Frame]
    error: Optional[CoformerError] = None
    cancelled: bool = False
    pushed: Optional[bytes] = None


class Inbox:
    """What one stream has brought and is not done yet, in order, at most `MAX_WAITING` items.

    A full inbox is not read into: HTTP/2's flow control then stops the sender.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._items: Deque[Item] = collections.deque()
        self._closed = False

    def fill(self, frames: Iterator[bytes]) -> None:
        """Read the stream to its end, to its first malformed frame, or until the inbox is closed."""
        import grpc

        try:
            for data in frames:
                arrived = time.monotonic()
                try:
                    frame = wire.decode_frame(data)
                except CoformerError as error:
                    self._put(Item(arrived, None, error))
                    return
                if frame.kind == wire.CANCEL:
                    self._cancel(frame.request_id)
                elif not self._put(Item(arrived, frame)):
                    return
        except grpc.RpcError:
            return  # the peer is gone
        finally:
            self.close()

    def push(self, data: bytes) -> None:
        """Let this encoded frame be sent; where the inbox is full nobody waits for it."""
        with self._changed:
            if len(self._items) < MAX_WAITING and not self._closed:
                self._items.append(Item(time.monotonic(), None, pushed=data))
                self._changed.notify_all()

    def close(self) -> None:
        """Take in nothing more; what is there can still be taken out."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Item]:
        """Yield the items as they come, until the stream's end."""
        while True:
            with self._changed:
                while not self._items and not self._closed:
                    self._changed.wait()
                if not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item

    def _put(self, item: Item) -> bool:
        with self._changed:
            while len(self._items) >= MAX_WAITING and not self._closed:
                self._changed.wait()
            self._items.append(item)
            self._changed.notify_all()
            return not self._closed

    def _cancel(self, request_id: int) -> None:
        with self._changed:
            for place, item in enumerate(self._items):
                if item.frame is not None and item.frame.request_id == request_id:
                    self._items[place] = item._replace(cancelled=True)


class Exchange:
    """Answers features = f(input) on any number of streams, one inference at a time.

    Args:
        manifest: of the bundle that is served.
        infer: maps the input array to the features.
        free: the lock of the engine.
        counts: where to count what is done; None: counts of its own, which nobody reads.
        others: of the other builds that this device serves; a stream is that of the build which its hello names.

    Attributes:
        build: digest of the build that is served.
    """

    def __init__(
        self,
        manifest: Manifest,
        infer: Callable[[Array], Array],
        free: threading.Lock,
        counts: Optional[WorkerCounts] = None,
        others: "Sequence[Exchange]" = (),
    ) -> None:
        self._manifest, self._infer, self._free = manifest, infer, free
        self._shapes = shapes_of(manifest)
        self._counts = WorkerCounts([manifest]) if counts is None else counts
        self.build = manifest.build
        self._streams = threading.BoundedSemaphore(MAX_STREAMS)
        self._greeted: Set[Inbox] = set()
        self._others = {other.build: other for other in others}

    def methods(self) -> Dict[str, Any]:
        """Return method name → gRPC handler."""
        import grpc

        return {wire.METHOD_NAME: grpc.stream_stream_rpc_method_handler(self.converse)}

    def converse(self, frames: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """Answer one central node's stream: hello for hello, then features or a failure per request."""
        import grpc

        if not is_node(context):
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "the certificate is not that of a node")
        if not self._streams.acquire(blocking=False):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "{} central nodes ask already".format(MAX_STREAMS))
        try:
            yield from self._conversation(frames, context)
        finally:
            self._streams.release()

    def _conversation(self, frames: Iterator[bytes], context: Any) -> Iterator[bytes]:
        inbox, greeted, serving = Inbox(), False, self
        context.add_callback(inbox.close)
        late = threading.Timer(HANDSHAKE_S, context.cancel)
        late.daemon = True
        late.start()
        threading.Thread(target=inbox.fill, args=(frames,), name="inbox", daemon=True).start()
        try:
            for item in inbox:
                frame, error = item.frame, item.error
                if item.pushed is not None:
                    yield item.pushed
                elif frame is not None and frame.kind == wire.HELLO:
                    late.cancel()
                    serving._greeted.discard(inbox)
                    greeted, serving = True, self._others.get(frame.build, self)
                    serving._greeted.add(inbox)
                    yield wire.encode_frame(wire.hello_frame(serving._manifest, __version__))
                elif frame is not None and frame.kind == wire.REQUEST and greeted:
                    yield serving.answer(item, frame)
                elif frame is not None and frame.kind == wire.ECHO and greeted:
                    yield wire.encode_frame(wire.Frame(wire.ECHO, frame.request_id, serving.build))
                else:
                    # The peer does not speak the protocol: there may be no request id to answer to.
                    due = CoformerError("a request was due", self._manifest.device, wire.MEND)
                    yield self._failure(0, wire.BAD_REQUEST, error or due)
                    return
        finally:
            late.cancel()
            serving._greeted.discard(inbox)
            inbox.close()

    def push(self, data: bytes) -> int:
        """Send an encoded frame to every central node that has a stream here; return how many there are."""
        greeted = self._greeted.copy()
        for inbox in greeted:
            inbox.push(data)
        return len(greeted)

    def answer(self, item: Item, frame: wire.Frame) -> bytes:
        """Return the encoded FEATURES or FAILURE frame for one request."""
        refused = self.refusal(frame)
        if refused is not None:
            return refused
        if item.cancelled:
            return self._failure(
                frame.request_id,
                wire.CANCELLED,
                CoformerError("the request was cancelled", self._manifest.device, "nothing is to be done"),
            )
        left_s = item.arrived + frame.budget_ms / 1e3 - time.monotonic() if frame.budget_ms else threading.TIMEOUT_MAX
        if left_s <= 0 or not self._free.acquire(timeout=left_s):
            error = CoformerError(
                "the budget of {} ms was over before the engine was free".format(frame.budget_ms),
                self._manifest.device,
                "allow more time, or send fewer requests at once",
            )
            return self._failure(frame.request_id, wire.LATE, error)
        try:
            return self._run(frame, time.monotonic() - item.arrived)
        finally:
            self._free.release()

    def _run(self, frame: wire.Frame, waited_s: float) -> bytes:
        """Run the engine, whose lock is held; no text of an exception leaves the device."""
        manifest = self._manifest
        started = time.monotonic()
        try:
            features = self._infer(wire.frame_tensor(frame))
        except SessionGone as error:
            return self._failure(frame.request_id, wire.ENGINE_FAILED, error)
        except Exception as error:  # noqa: BLE001 - whatever an engine raises is a failed member
            incident = report("the engine failed", error)
            said = CoformerError(
                "its engine failed, look for {} in its log".format(incident), manifest.device, "mend the device"
            )
            return self._failure(frame.request_id, wire.ENGINE_FAILED, said)
        compute_s = time.monotonic() - started
        self._counts.answered(compute_s)
        compute_us = int(compute_s * 1e6)
        answer = wire.tensor_frame(
            wire.FEATURES,
            frame.request_id,
            manifest.build,
            features,
            member=manifest.member,
            compute_us=compute_us,
            waited_us=int(waited_s * 1e6),
        )
        return wire.encode_frame(answer)

    def refusal(self, frame: wire.Frame) -> Optional[bytes]:
        """Return the FAILURE for a request of another build, dtype or shape, or with numbers of no token, or None."""
        manifest = self._manifest
        if frame.build != manifest.build:
            error = CoformerError(
                "the request is of build {}..., this device serves {}...".format(frame.build[:12], manifest.build[:12]),
                manifest.device,
                "ship the bundles of one build to all devices",
            )
            return self._failure(frame.request_id, wire.OTHER_BUILD, error)
        taken = frame.dtype == manifest.input.dtype and frame.shape in self._shapes
        if not taken and not self._goes_on(frame):
            error = CoformerError(
                "the request holds {} of shape {}, the input is {} of shape {}".format(
                    frame.dtype,
                    list(frame.shape),
                    manifest.input.dtype,
                    " or ".join(str(list(shape)) for shape in self._shapes),
                ),
                manifest.device,
                "send what the manifest says",
            )
            return self._failure(frame.request_id, wire.BAD_REQUEST, error)
        if taken and manifest.vocabulary:
            try:
                check_numbers(manifest, wire.frame_tensor(frame), manifest.device)
            except CoformerError as error:
                return self._failure(frame.request_id, wire.BAD_REQUEST, error)
        return None

    def _goes_on(self, frame: wire.Frame) -> bool:
        """Whether this is a request of a generation, see `decoder.py`."""
        spec = self._manifest.generation
        return (
            spec is not None
            and frame.dtype == DTYPE
            and len(frame.shape) == 1
            and HEAD < frame.shape[0] <= HEAD + max(spec.context, spec.longest_prompt)
        )

    def _failure(self, request_id: int, status: int, error: CoformerError) -> bytes:
        manifest = self._manifest
        self._counts.failed(status)
        frame = wire.failure_frame(request_id, manifest.build, status, error, manifest.member)
        return wire.encode_frame(frame)
