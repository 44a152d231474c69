"""Dynamic batching: requests that wait at the same time are answered in one round.

Requests of one length wait in one queue. A batch is taken from it when its first request has waited for long enough, or
when the largest profile is full, and fewer than `ROUNDS` rounds are under way: while the members compute, what comes
meanwhile adds up. Each request keeps its own deadline, its own caller, and its own part of the answer.
"""

import collections
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Callable, Deque, Dict, List, Optional, Tuple, Type

from .answer import Answer, Phases
from .arrays import Array
from .central import CalledOff, Load, Unanswered
from .fitting import Fitted, filled, shaped_by
from .manifest_profiles import batches_of
from .members import LATE

if TYPE_CHECKING:
    from .observe import Answering

ROUNDS = 2  # one that the engines compute, and one on its way to them
GRACE_S = 0.05  # for a round that ends with the request's own deadline: it knows which members were late

OnGone = Callable[[Callable[[], None]], bool]


class Waiting:
    """One request: in a queue, or part of a round.

    Args:
        fitted: its input.
        deadline: time.monotonic() seconds.

    Attributes:
        array: its own samples.
        arrived: time.monotonic() seconds.
        began: when its round did.
        over: set when there is an answer or an error, or when nobody wants one.
        gone: whether nobody does.
        round: what it is part of.
    """

    def __init__(self, fitted: Fitted, deadline: float) -> None:
        self.fitted, self.deadline = fitted, deadline
        self.array = fitted.array[: fitted.samples]
        self.arrived = self.began = time.monotonic()
        self.over = threading.Event()
        self.gone = False
        self.answer: Optional[Answer] = None
        self.error: Optional[BaseException] = None
        self.round: "Optional[Round]" = None

    def leave(self) -> None:
        """Do not want the answer any more; a round that nobody waits for is called off."""
        self.gone = True
        self.over.set()
        if self.round is not None:
            self.round.left()


class Round:
    """Requests that are answered together."""

    def __init__(self, parts: List[Waiting]) -> None:
        self.parts, self.deadline = parts, max(part.deadline for part in parts)
        self._lock = threading.Lock()
        self._call_off: Optional[Callable[[], None]] = None
        now = time.monotonic()
        for part in parts:
            part.began, part.round = now, self
        self.left()

    def on_gone(self, call_off: Callable[[], None]) -> bool:
        """Call `call_off` when everybody is gone; return False where they are."""
        with self._lock:
            self._call_off = call_off
            return not all(part.gone for part in self.parts)

    def left(self) -> None:
        """Somebody has left."""
        with self._lock:
            call_off = self._call_off if all(part.gone for part in self.parts) else None
        if call_off is not None:
            call_off()


class Batcher:
    """Answers requests together. A context manager: leaving it ends its threads.

    Args:
        central: what answers.
        wait_s: how long a request waits for others while nothing is under way.
    """

    def __init__(self, central: "Answering", wait_s: float) -> None:
        self._central, self._wait_s = central, wait_s
        self._sizes = batches_of(central.manifest)
        self._changed = threading.Condition()
        self._queues: Dict[Tuple[int, ...], Deque[Waiting]] = {}
        self._under_way, self._closing = 0, False
        self._pool = ThreadPoolExecutor(max_workers=ROUNDS, thread_name_prefix="round")
        self._thread = threading.Thread(target=self._dispatch, name="batches", daemon=True)

    def __enter__(self) -> "Batcher":
        self._central.observed.waiting = self.waiting
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self._pool.shutdown(wait=True)

    def answer(self, fitted: Fitted, budget_s: Optional[float], on_gone: Optional[OnGone]) -> Answer:
        """Answer one request together with those that wait as well; arguments and errors as of `Central.answer`."""
        allowed_s = self._central.options.deadline_ms / 1e3
        allowed_s = allowed_s if budget_s is None else min(allowed_s, max(budget_s, 0.0))
        waiting = Waiting(fitted, time.monotonic() + allowed_s)
        if on_gone is not None and not on_gone(waiting.leave):
            waiting.leave()
        with self._changed:
            self._queues.setdefault(waiting.array.shape[1:], collections.deque()).append(waiting)
            self._changed.notify_all()
        self._wait(waiting)
        if waiting.error is not None:
            raise waiting.error
        if waiting.answer is not None:
            return waiting.answer
        where = "central node '{}'".format(self._central.manifest.device)
        if waiting.gone:
            raise CalledOff("the caller has gone", where, "ask again")
        waiting.leave()
        raise Unanswered(
            "late: no answer within {} ms to the batch that it {}".format(
                int(allowed_s * 1e3), "waits for" if waiting.round is None else "is part of"
            ),
            where,
            "allow more time, or send fewer requests at once",
            LATE,
        )

    def waiting(self) -> int:
        """Return how many requests are in no round yet."""
        with self._changed:
            return sum(len(queue) for queue in self._queues.values())

    def _wait(self, waiting: Waiting) -> None:
        waiting.over.wait(max(0.0, waiting.deadline - time.monotonic()))
        if waiting.round is not None and waiting.round.deadline <= waiting.deadline:
            waiting.over.wait(GRACE_S)

    def _dispatch(self) -> None:
        while True:
            with self._changed:
                parts = self._take()
                while not parts and not self._closing:
                    self._changed.wait(self._until_ready())
                    parts = self._take()
                if not parts:
                    return
                self._under_way += 1
            self._pool.submit(self._run, Round(parts))

    def _take(self) -> List[Waiting]:
        """Take the next batch out of its queue; nothing where none is ready, or enough is under way."""
        now = time.monotonic()
        for shape, queue in list(self._queues.items()):
            wanted = [each for each in queue if not each.gone and each.deadline > now]
            self._queues[shape] = collections.deque(wanted)
            if not wanted:
                del self._queues[shape]
        ready = [queue for queue in self._queues.values() if self._ready_in(queue, now) <= 0]
        if not ready or self._under_way >= ROUNDS:
            return []
        queue = min(ready, key=lambda each: each[0].arrived)
        return [queue.popleft() for _ in range(joined([len(each.array) for each in queue], self._sizes))]

    def _ready_in(self, queue: Deque[Waiting], now: float) -> float:
        """Return the seconds until a queue's first batch is ready."""
        if sum(len(each.array) for each in queue) >= self._sizes[-1] or self._closing:
            return 0.0
        return queue[0].arrived + self._wait_s - now

    def _until_ready(self) -> Optional[float]:
        if not self._queues or self._under_way >= ROUNDS:
            return None  # a request that comes, or a round that ends, will tell
        now = time.monotonic()
        return max(0.0, min(self._ready_in(queue, now) for queue in self._queues.values()))

    def _run(self, round_: Round) -> None:
        try:
            self._answer(round_)
        except BaseException as error:  # noqa: BLE001 - each request's own thread raises it
            for part in round_.parts:
                part.error = error
        finally:
            for part in round_.parts:
                part.over.set()
            with self._changed:
                self._under_way -= 1
                self._changed.notify_all()

    def _answer(self, round_: Round) -> None:
        import numpy

        parts = round_.parts
        own = parts[0].array if len(parts) == 1 else numpy.concatenate([part.array for part in parts])
        array = filled(own, self._central.manifest)
        budget_s = round_.deadline - time.monotonic()
        answer = self._central.answer(array, budget_s, round_.on_gone, load=Load(len(parts), len(own)))
        first = 0
        for part in parts:
            rows = answer.logits[first : first + len(part.array)]
            first += len(part.array)
            part.answer = part_of(answer, part, rows, array, self._central)
            self._central.observed.waited(part.began - part.arrived)


def part_of(answer: Answer, part: Waiting, logits: Array, array: Array, central: "Answering") -> Answer:
    """Return a request's own answer; what it has waited for its round counts as time that its input was on its way."""
    waited_ms = (part.began - part.arrived) * 1e3
    phases = answer.phases
    shaped = shaped_by(central.manifest, part.fitted._replace(array=array))
    return answer._replace(
        logits=logits,
        phases=Phases(
            phases.total_ms + waited_ms,
            phases.gather_ms + waited_ms,
            phases.aggregate_ms,
            phases.compute_ms,
            {device: transfer_ms + waited_ms for device, transfer_ms in phases.transfer_ms.items()},
        ),
        shaped=None if shaped is None else shaped._replace(queue_ms=waited_ms),
    )


def joined(samples: List[int], sizes: List[int]) -> int:
    """Return how many of the requests that wait make the next batch.

    As many as the largest size takes. A batch that would be no more than half full is not filled up where the requests
    fill a smaller one.

    Args:
        samples: of each request, in order; the first has at most the largest size.
        sizes: of the batches, ascending.
    """
    totals, total = [], 0
    for count in samples:
        total += count
        if total > sizes[-1]:
            break
        totals.append(total)
    size = next(each for each in sizes if each >= totals[-1])
    if 2 * totals[-1] > size:
        return len(totals)
    smaller = max((each for each in sizes if each <= totals[-1]), default=size)
    return sum(total <= smaller for total in totals) or 1
