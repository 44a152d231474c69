"""A worker: one engine that answers features = f(input) on the device edge."""

import functools
import threading
from types import TracebackType
from typing import Any, List, Optional, Sequence, Type

from . import wire
from .arrays import Array
from .bundle import Bundle
from .engines import Engine, open_member
from .exchange import MAX_STREAMS, Exchange
from .health import SERVICE as HEALTH
from .health import Health
from .listen import open_server
from .manifest import Manifest
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
        others: bundles of other builds for the same device, to be served as well; one inference at a time of all.

    Attributes:
        address: where it listens, once entered.
        server: the gRPC server, once entered.
        counts: what it has done.
    """

    def __init__(
        self,
        bundle: Bundle,
        listen: str,
        threads: int,
        security: Security = LOOPBACK,
        broadcast: bool = False,
        others: Sequence[Bundle] = (),
    ) -> None:
        self._bundles = (bundle, *others)
        self._broadcast = broadcast
        self.counts = WorkerCounts([each.manifest for each in self._bundles])
        self._listen, self._threads, self._security = listen, threads, security
        self._engines: List[Engine] = []
        self.address = ""
        self.server: Any = None

    def __enter__(self) -> "Worker":
        try:
            exchange = self._open()
            health = Health((wire.SERVICE,), lambda: True)
            methods = dict(exchange.methods(), **(submit_methods(exchange) if self._broadcast else {}))
            services = {wire.SERVICE: methods, HEALTH: health.methods()}
            self.server, self.address = open_server(
                services, self._listen, self._security, CALLS + MAX_STREAMS * (len(self._bundles) - 1), HEALTH
            )
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.server.stop(0).wait()
        self._close()

    def _open(self) -> Exchange:
        """Open all engines; the first one's exchange knows those of the others."""
        exchanges: List[Exchange] = []
        free = threading.Lock()
        for bundle in reversed(self._bundles):
            engine = open_member(bundle, self._threads)
            self._engines.append(engine)
            infer = functools.partial(_infer, engine, bundle.manifest)
            exchanges.append(Exchange(bundle.manifest, infer, free, self.counts, tuple(exchanges)))
        return exchanges[-1]

    def _close(self) -> None:
        for engine in self._engines:
            engine.close()


def _infer(engine: Engine, manifest: Manifest, array: Array) -> Array:
    return engine.run({manifest.input.name: array})[manifest.output.name]
