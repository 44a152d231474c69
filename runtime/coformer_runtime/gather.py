"""Waiting for the members' replies to one request, and what became of those that were not waited for."""

import functools
import threading
from concurrent.futures import Future
from typing import Callable, Dict, FrozenSet, List, NamedTuple, Set

from .breaker import Breaker
from .members import Reply


class Round:
    """The wait of one request: over when all have replied, when no answer is possible any more, or when called off.

    Args:
        awaited: member index → its future reply.
        possible: whether an answer is possible without these members.
    """

    def __init__(self, awaited: Dict[int, "Future[Reply]"], possible: Callable[[FrozenSet[int]], bool]) -> None:
        self._possible = possible
        self._lock = threading.Lock()
        self._left: Set[int] = set(awaited)
        self._lost: FrozenSet[int] = frozenset()
        self._over = threading.Event()
        self.called_off = False
        for index, future in awaited.items():
            future.add_done_callback(functools.partial(self._replied, index))

    def wait(self, timeout_s: float) -> None:
        """Return when it is over, or after that time."""
        self._over.wait(max(0.0, timeout_s))

    def call_off(self) -> None:
        """End the wait: nobody wants the answer any more."""
        self.called_off = True
        self._over.set()

    def _replied(self, index: int, future: "Future[Reply]") -> None:
        with self._lock:
            self._left.discard(index)
            if future.result().features is None:
                self._lost = self._lost | {index}
            over = not self._left or not self._possible(self._lost)
        if over:
            self._over.set()


class Unheard(NamedTuple):
    """A request that a member had not answered when the wait was over."""

    future: "Future[Reply]"
    asked: float
    due: float


class Unheards:
    """What a member still owes; tells its breaker once a whole deadline has passed.

    The caller's own limit may be far shorter than the deadline: giving up then says nothing about the member.
    """

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker
        self._lock = threading.Lock()
        self._waiting: List[Unheard] = []

    def add(self, future: "Future[Reply]", asked: float, due: float) -> None:
        """Remember a request that was asked then and should be answered until `due` (time.monotonic() seconds)."""
        with self._lock:
            self._waiting.append(Unheard(future, asked, due))

    def judge(self, now: float) -> None:
        """Tell the breaker of all that are decided."""
        with self._lock:
            decided = [each for each in self._waiting if each.future.done() or each.due <= now]
            if decided:
                self._waiting = [each for each in self._waiting if each not in decided]
        for each in decided:
            reply = each.future.result() if each.future.done() else None
            if reply is not None and reply.arrived < each.due:
                if reply.features is not None:
                    self._breaker.succeeded()
                elif reply.broken:
                    self._breaker.failed(reply.arrived)
            else:
                self._breaker.silent(each.asked, each.due)
