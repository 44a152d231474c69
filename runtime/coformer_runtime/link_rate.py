"""The rate of the link between the boards, measured from what they exchange anyway.

A round of requests gives one sample: the bytes that went to the members and came back, over the longest time that one
of them was under way. What a member says that its engine ran and that the request waited for it is taken off; so is the
round trip of an empty message (`Frame` ECHO), measured now and then when a link is idle. What is left is bytes over
rate, as in eq. (3) of the method, whose rates the boundaries between alternatives are given in.

Delays only make a link look slower, so that a sample bounds the rate from below; from above it bounds it as far as its
time is more than another round trip, which is taken for noise. Short messages on a fast link tell little, and say so.
For the same reason a link is slow only where all of the last samples but one say it: a busy processor delays as well.
"""

import collections
import functools
import threading
import time
from concurrent.futures import Future
from typing import Callable, Deque, Dict, List, NamedTuple, Optional, Tuple

from .members import Reply

WINDOW, LEAST = 7, 3
"""Samples that count, and from how many on there is a rate."""
KEPT_S = 60.0
ROUND_TRIPS = 8
RESOLUTION_S = 50e-6
OVERHEAD_BYTES = 14
"""Of gRPC and HTTP/2, around each message."""


class Rate(NamedTuple):
    """The rate in Mbit/s lies between these; `high` is infinite where the samples do not bound it.

    `low` is the median of what the samples say, `high` the second largest.
    """

    low: float
    high: float


class LinkRate:
    """Rounds of requests in, a rate out.

    Args:
        clock: seconds, as of `time.monotonic`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._samples: Deque[Tuple[float, Rate]] = collections.deque(maxlen=WINDOW)
        self._round_trips: Deque[float] = collections.deque(maxlen=ROUND_TRIPS)

    def watch(self, started: float, sent_bytes: int, replies: "Dict[int, Future[Reply]]") -> None:
        """Take a sample once all of these have replied, in time or late.

        Args:
            started: time.monotonic() seconds when all were asked.
            sent_bytes: of the frame that each was sent.
            replies: member index → its future reply.
        """
        left = set(replies)

        def replied(index: int, future: "Future[Reply]") -> None:
            with self._lock:
                left.discard(index)
                if left:
                    return
            self._take(started, sent_bytes, [each.result() for each in replies.values()])

        for index, future in replies.items():
            future.add_done_callback(functools.partial(replied, index))

    def round_trip(self, seconds: float) -> None:
        """Take in how long an empty message was under way to a worker and back."""
        with self._lock:
            self._round_trips.append(seconds)

    def note(self, count: int, seconds: float) -> None:
        """Take a sample: so many bytes in so many seconds, a round trip included."""
        with self._lock:
            round_trip = min(self._round_trips) if self._round_trips else 0.0
            over = max(seconds - round_trip, RESOLUTION_S)
            megabits = count * 8e-6
            high = megabits / (over - round_trip) if over > round_trip else float("inf")
            self._samples.append((self._clock(), Rate(megabits / over, high)))

    def rate(self) -> Optional[Rate]:
        """Return what the last samples of a minute say; None where there are too few."""
        with self._lock:
            fresh = [rate for when, rate in self._samples if when > self._clock() - KEPT_S]
        if len(fresh) < LEAST:
            return None
        return Rate(sorted(each.low for each in fresh)[len(fresh) // 2], sorted(each.high for each in fresh)[-2])

    def _take(self, started: float, sent_bytes: int, replies: List[Reply]) -> None:
        told = [(reply, reply.features.nbytes) for reply in replies if reply.features is not None]
        if not told:
            return
        count = sum(sent_bytes + nbytes + 2 * OVERHEAD_BYTES for _, nbytes in told)
        under_way = max(reply.arrived - started - (reply.compute_ms + reply.waited_ms) / 1e3 for reply, _ in told)
        self.note(count, under_way)
