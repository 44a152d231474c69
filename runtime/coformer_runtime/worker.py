"""A worker: one engine that answers features = f(input) on the device edge."""

import threading
from types import TracebackType
from typing import Any, Optional, Type

from . import wire
from .arrays import Array
from .bundle import Bundle
from .engines import Engine, open_member
from .exchange import MAX_STREAMS, Exchange
from .health import SERVICE as HEALTH
from .health import Health
from .listen import open_server
from .observe_worker import WorkerCounts
from .security import LOOPBACK, Security
from .submit import MAX_SUBMITTED, submit_methods

CALLS = MAX_STREAMS + MAX_SUBMITTED + 16  # the rest is for health, and for calls that are refused


class Worker:
    """Serves one bundle's member. A context manager: entering loads the engine and listens.

    Args:
        bundle: a verified bundle.
        listen: HOST:PORT, port 0 for a free one.
        threads: threads of one inference.
        security: who may call.
        broadcast: take inputs from clients too; their features go to the central nodes.

    Attributes:
        address: where it listens, once entered.
        server: the gRPC server, once entered.
        counts: what it has done.
    """

    def __init__(
        self, bundle: Bundle, listen: str, threads: int, security: Security = LOOPBACK, broadcast: bool = False
    ) -> None:
        self._broadcast = broadcast
        self.counts = WorkerCounts(bundle.manifest)
        self._bundle, self._listen, self._threads, self._security = bundle, listen, threads, security
        self._engine: Optional[Engine] = None
        self.address = ""
        self.server: Any = None

    def __enter__(self) -> "Worker":
        self._engine = open_member(self._bundle, self._threads)
        exchange = Exchange(self._bundle.manifest, self._infer, threading.Lock(), self.counts)
        try:
            health = Health((wire.SERVICE,), lambda: True)
            methods = dict(exchange.methods(), **(submit_methods(exchange) if self._broadcast else {}))
            services = {wire.SERVICE: methods, HEALTH: health.methods()}
            self.server, self.address = open_server(services, self._listen, self._security, CALLS, HEALTH)
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

    def _infer(self, array: Array) -> Array:
        assert self._engine is not None
        manifest = self._bundle.manifest
        return self._engine.run({manifest.input.name: array})[manifest.output.name]
