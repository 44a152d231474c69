"""When to stop asking a member that fails, and when to ask it again."""

import threading
import time
from typing import Callable

FAILURES = 3
OPEN_S = 15.0


class Breaker:
    """Opens after three failures in a row; from then on lets one request through every 15 seconds.

    Any success closes it. Safe to use from several threads.

    Args:
        clock: the time in seconds, as time.monotonic.
        changed: told "open" when it opens and "closed" when it closes.

    Attributes:
        opened: how often it has opened.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, changed: Callable[[str], None] = lambda state: None
    ) -> None:
        self._clock, self._changed = clock, changed
        self._lock = threading.Lock()
        self._failures = 0
        self._probe_at = 0.0
        self._last_failure, self._last_success = float("-inf"), float("-inf")
        self.opened = 0

    def state(self) -> str:
        """Return "closed", "open", or "half-open" when the next request will be let through."""
        with self._lock:
            if self._failures < FAILURES:
                return "closed"
            return "half-open" if self._clock() >= self._probe_at else "open"

    def wait_s(self) -> float:
        """Return in how many seconds a request will be let through."""
        with self._lock:
            return max(0.0, self._probe_at - self._clock()) if self._failures >= FAILURES else 0.0

    def admit(self) -> bool:
        """Return whether to send a request now; while open, True is said once per interval."""
        with self._lock:
            if self._failures < FAILURES:
                return True
            if self._clock() < self._probe_at:
                return False
            self._probe_at = self._clock() + OPEN_S
            return True

    def succeeded(self) -> None:
        """Note an answer in time: it closes."""
        with self._lock:
            was_open = self._failures >= FAILURES
            self._failures, self._last_success = 0, self._clock()
        if was_open:
            self._changed("closed")

    def failed(self, at: float) -> None:
        """Note a failure that happened at that time; all that one broken connection took share one, and count once."""
        with self._lock:
            if at == self._last_failure:
                return
            self._last_failure = at
            self._failures += 1
            opens = self._failures == FAILURES
            if self._failures >= FAILURES:
                self._probe_at = self._clock() + OPEN_S
            self.opened += int(opens)
        if opens:
            self._changed("open")

    def silent(self, asked: float, due: float) -> None:
        """Note that a request asked then was not answered until `due`.

        It is a failure unless the member answered another one meanwhile: then it is busy, not broken, and to stop
        asking it would turn a crowd into an outage.
        """
        with self._lock:
            busy = self._last_success >= asked
        if not busy:
            self.failed(due)
