"""Inputs that a client sends to every device itself, as in the paper's prototype.

The client chooses an id, sends the input under it to each worker (`submit.py`) and to the central node. Each worker
pushes its features down the streams that central nodes have open to it; the central node joins them by the id. The
deadline counts from whatever arrives first.
"""

import collections
import threading
import time
from concurrent.futures import Future
from typing import Dict, Iterable, NamedTuple

from .errors import CoformerError
from .members import Reply

MAX_OPEN = 256  # ids at a time; a client that never comes for its answer must not cost memory for ever


class Joined(NamedTuple):
    """What has arrived under one id: since when (time.monotonic() seconds), and member → its future reply."""

    first: float
    futures: Dict[int, "Future[Reply]"]


class Broadcasts:
    """Joins what arrives under one id, in any order.

    Args:
        members: the indices of those that push features.
        keep_s: how long an id is remembered after its first arrival.
    """

    def __init__(self, members: Iterable[int], keep_s: float) -> None:
        self._members, self._keep_s = tuple(members), keep_s
        self._lock = threading.Lock()
        self._open: "collections.OrderedDict[int, Joined]" = collections.OrderedDict()
        self._claimed: "collections.OrderedDict[int, Joined]" = collections.OrderedDict()

    def arrived(self, request_id: int, member: int, reply: Reply) -> None:
        """Take in a member's reply; a second one under the same id is ignored."""
        with self._lock:
            joined = self._claimed.get(request_id) or self._joined(request_id)
            future = joined.futures.get(member)
            fresh = future is not None and not future.running() and not future.done()
            if future is not None and fresh:
                future.set_running_or_notify_cancel()
        if future is not None and fresh:
            future.set_result(reply)

    def claim(self, request_id: int) -> Joined:
        """Return what arrives under an id, for the one request that answers it.

        Raises:
            CoformerError: another request has that id.
        """
        with self._lock:
            if request_id in self._claimed:
                raise CoformerError(
                    "another request has this broadcast id", "request", "choose 63 random bits for every request"
                )
            joined = self._joined(request_id)
            self._claimed[request_id] = self._open.pop(request_id)
            return joined

    def _joined(self, request_id: int) -> Joined:
        """Return the entry of an id that nobody has claimed; forget those that are too old or too many."""
        now = time.monotonic()
        for entries in (self._open, self._claimed):
            while entries and (len(entries) >= MAX_OPEN or next(iter(entries.values())).first + self._keep_s < now):
                entries.popitem(last=False)
        if request_id not in self._open:
            self._open[request_id] = Joined(now, {member: Future() for member in self._members})
        return self._open[request_id]
