"""A worker: one engine that answers features = f(input) on the device edge."""

import threading
import time
from types import TracebackType
from typing import Any, Iterator, Optional, Type

from . import __version__, wire
from .bundle import Bundle
from .engines import Engine, open_member
from .errors import CoformerError
from .failures import report
from .listen import open_server

CONCURRENCY = 8


class Worker:
    """Serves one bundle's member. A context manager: entering loads the engine and listens.

    Args:
        bundle: a verified bundle.
        listen: HOST:PORT, port 0 for a free one.
        threads: threads of one inference.
        insecure: allow an address other than loopback.

    Attributes:
        address: where it listens, once entered.
        server: the gRPC server, once entered.
    """

    def __init__(self, bundle: Bundle, listen: str, threads: int, insecure: bool = False) -> None:
        self._bundle, self._listen, self._threads, self._insecure = bundle, listen, threads, insecure
        self._manifest = bundle.manifest
        self._engine: Optional[Engine] = None
        self._running = threading.Lock()
        self.address = ""
        self.server: Any = None

    def __enter__(self) -> "Worker":
        import grpc

        self._engine = open_member(self._bundle, self._threads)
        handler = grpc.stream_stream_rpc_method_handler(self._exchange)
        try:
            self.server, self.address = open_server(
                wire.SERVICE, {wire.METHOD_NAME: handler}, self._listen, self._insecure, CONCURRENCY
            )
        except BaseException:
            self._engine.close()
            raise
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.server.stop(0).wait()
        if self._engine is not None:
            self._engine.close()

    def _exchange(self, frames: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """Answer one central node's stream: hello for hello, then features or a failure per request."""
        greeted = False
        for data in frames:
            try:
                frame = wire.decode_frame(data)
                if frame.kind == wire.HELLO:
                    greeted = True
                    yield wire.encode_frame(wire.hello_frame(self._manifest, __version__))
                    continue
                if frame.kind != wire.REQUEST or not greeted:
                    raise CoformerError("a request was due", self._manifest.device, wire.MEND)
            except CoformerError as error:
                # The peer does not speak the protocol: there may be no request id to answer to.
                yield self._failure(0, wire.BAD_REQUEST, error)
                return
            yield self._answer(frame)

    def _answer(self, frame: wire.Frame) -> bytes:
        """Return the encoded FEATURES or FAILURE frame for one request."""
        refused = self._refusal(frame)
        if refused is not None:
            return refused
        if not self._running.acquire(timeout=frame.budget_ms / 1e3 if frame.budget_ms else -1):
            error = CoformerError(
                "the budget of {} ms was over before the engine was free".format(frame.budget_ms),
                self._manifest.device,
                "allow more time, or send fewer requests at once",
            )
            return self._failure(frame.request_id, wire.LATE, error)
        try:
            return self._run(frame)
        finally:
            self._running.release()

    def _run(self, frame: wire.Frame) -> bytes:
        """Run the engine, whose lock is held; no text of an exception leaves the device."""
        manifest = self._manifest
        assert self._engine is not None
        started = time.monotonic()
        try:
            features = self._engine.run({manifest.input.name: wire.frame_tensor(frame)})
        except Exception as error:  # noqa: BLE001 - whatever an engine raises is a failed member
            incident = report("the engine failed", error)
            said = CoformerError("the engine failed", manifest.device, "look for {} in its log".format(incident))
            return self._failure(frame.request_id, wire.ENGINE_FAILED, said)
        compute_us = int((time.monotonic() - started) * 1e6)
        answer = wire.tensor_frame(
            wire.FEATURES,
            frame.request_id,
            manifest.build,
            features[manifest.output.name],
            member=manifest.member,
            compute_us=compute_us,
        )
        return wire.encode_frame(answer)

    def _refusal(self, frame: wire.Frame) -> Optional[bytes]:
        """Return the FAILURE for a request of another build, dtype or shape, or None."""
        manifest = self._manifest
        if frame.build != manifest.build:
            error = CoformerError(
                "the request is of build {}..., this device serves {}...".format(frame.build[:12], manifest.build[:12]),
                manifest.device,
                "ship the bundles of one build to all devices",
            )
            return self._failure(frame.request_id, wire.OTHER_BUILD, error)
        if (frame.dtype, frame.shape) != (manifest.input.dtype, manifest.input.shape):
            error = CoformerError(
                "the request holds {} of shape {}, the input is {} of shape {}".format(
                    frame.dtype, list(frame.shape), manifest.input.dtype, list(manifest.input.shape)
                ),
                manifest.device,
                "send what the manifest says",
            )
            return self._failure(frame.request_id, wire.BAD_REQUEST, error)
        return None

    def _failure(self, request_id: int, status: int, error: CoformerError) -> bytes:
        manifest = self._manifest
        frame = wire.failure_frame(request_id, manifest.build, status, error, manifest.member)
        return wire.encode_frame(frame)
