"""The members as the central node sees them: what they reply, and its own engine (`link.py`: the workers).

Both kinds answer `ask` with a future Reply; neither raises for a member that fails, because a failed member
is an outcome that the gathering counts, not an error of the request.
"""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Optional

from .arrays import Array
from .decoder import SessionGone
from .engines import Engine
from .failures import report
from .manifest import Manifest

MAX_IN_FLIGHT = 32
LATE, BUSY, AWAY, BROKEN, SPARED = "late", "busy", "away", "broken", "spared"


class Reply(NamedTuple):
    """What one member made of one request: features, or the reason why there are none.

    Attributes:
        features: `(1, d_n)`, or None.
        failure: why there are none, "" otherwise.
        cause: LATE (time ran out), BUSY (too many requests wait for it), AWAY (it was not asked), BROKEN (it failed),
            SPARED (it was not waited for, since others had failed), or "".
        compute_ms: the engine's run.
        arrived: time.monotonic() when the reply was there.
        waited_ms: how long the request waited for a worker's engine.
    """

    features: Optional[Array]
    failure: str = ""
    cause: str = ""
    compute_ms: float = 0.0
    arrived: float = 0.0
    waited_ms: float = 0.0

    @property
    def broken(self) -> bool:
        """Whether the member itself failed, as opposed to being late, busy or away."""
        return self.cause == BROKEN


def failed(failure: str, cause: str) -> Reply:
    """Return the reply of a member that has no features, for this reason."""
    return Reply(None, failure, cause, 0.0, time.monotonic())


def resolved(reply: Reply) -> "Future[Reply]":
    """Return a future that has its reply already."""
    future: "Future[Reply]" = Future()
    future.set_result(reply)
    return future


class OwnMember:
    """The central node's own engine, on a thread of its own so that waiting for it is bounded as well.

    Attributes:
        free: the lock of the engine, for other central nodes that ask this node as a worker.
    """

    def __init__(self, engine: Engine, manifest: Manifest) -> None:
        self._engine, self._manifest = engine, manifest
        self.free = threading.Lock()
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._in_flight = threading.BoundedSemaphore(MAX_IN_FLIGHT)

    def ask(self, array: Array, deadline: float) -> "Future[Reply]":
        """Run the engine before `deadline` (time.monotonic() seconds), after what was asked earlier."""
        if not self._in_flight.acquire(blocking=False):
            return resolved(failed("busy: {} requests wait for its engine".format(MAX_IN_FLIGHT), BUSY))
        future = self._pool.submit(self._run, array, deadline)
        future.add_done_callback(lambda _: self._in_flight.release())
        return future

    def _run(self, array: Array, deadline: float) -> Reply:
        if not self.free.acquire(timeout=max(0.0, deadline - time.monotonic())):
            return failed("late: its engine was not free in time", LATE)
        try:
            started = time.monotonic()
            if started > deadline:
                return failed("late: its engine was not free in time", LATE)
            features = self.infer(array)
        except SessionGone as error:
            return failed(error.what, BROKEN)
        except Exception as error:  # noqa: BLE001 - whatever an engine raises is a failed member
            return failed("its engine failed, look for {} in its log".format(report("engine", error)), BROKEN)
        finally:
            self.free.release()
        ended = time.monotonic()
        return Reply(features, compute_ms=(ended - started) * 1e3, arrived=ended)

    def infer(self, array: Array) -> Array:
        """Run the engine, whose lock is held."""
        return self._engine.run({self._manifest.input.name: array})[self._manifest.output.name]

    def close(self) -> None:
        """Wait for the running inference and free the engine."""
        self._pool.shutdown(wait=True)
        self._engine.close()
