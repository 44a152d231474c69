"""Energy of one inference as the board itself tells it, with the power of the idle board subtracted as in the paper."""

import threading
import time
from typing import Callable, List, NamedTuple, Optional, Tuple

from .errors import CheckFailed
from .power import Source, power_source

PERIOD_S = 0.02  # INA3221 averages over a few ms; RAPL counts by itself
WARM_UP = 5


class Energy(NamedTuple):
    """What one inference takes.

    Attributes:
        source: what told it, such as "INA3221 VDD_IN".
        idle_w: mean power before, in watts.
        running_w: mean power while one inference followed the other.
        runs: how many did.
        ms_each: milliseconds of one.
        mj_each: millijoules of one, above idle.
    """

    source: str
    idle_w: float
    running_w: float
    runs: int
    ms_each: float
    mj_each: float


def measure_energy(
    run: Callable[[], object],
    seconds: float,
    root: str = "",
    clock: Callable[[], float] = time.monotonic,
    source: Optional[Source] = None,
) -> Energy:
    """Measure idle power for `seconds`, then run for as long without a break.

    Args:
        run: one inference.
        seconds: of each of the two.
        root: put before the paths of /sys.
        clock: the time in seconds.
        source: what tells power; None: the board's.

    Raises:
        CheckFailed: the board tells nothing of its power.
    """
    told = power_source(root) if source is None else source
    if told is None:
        raise CheckFailed(
            "this board tells nothing of its power",
            "INA3221 and RAPL in /sys",
            "let the node's user read /sys/class/powercap/intel-rapl:*/energy_uj on a PC; measure outside elsewhere",
        )
    with _Mean(told, clock) as idle:
        time.sleep(seconds)
    for _ in range(WARM_UP):
        run()
    runs, started = 0, clock()
    with _Mean(told, clock) as running:
        while clock() - started < seconds:
            run()
            runs += 1
        took_s = clock() - started
    idle_w, running_w = idle.watts(), running.watts()
    each_s = took_s / runs
    return Energy(told.name, idle_w, running_w, runs, each_s * 1e3, (running_w - idle_w) * each_s * 1e3)


class _Mean:
    """Mean power over the time inside of it, from samples on a thread of its own. A context manager."""

    def __init__(self, source: Source, clock: Callable[[], float]) -> None:
        self._source, self._clock = source, clock
        self._samples: List[Tuple[float, float]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="power", daemon=True)

    def __enter__(self) -> "_Mean":
        self._take()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()
        self._take()

    def _sample(self) -> None:
        while not self._over.wait(PERIOD_S):
            self._take()

    def _take(self) -> None:
        self._samples.append((self._clock(), self._source.read()))

    def watts(self) -> float:
        """Return the mean: by trapezoids over samples of power, or the difference of samples of a counter."""
        first, last = self._samples[0], self._samples[-1]
        if self._source.counts:
            return (last[1] - first[1]) / (last[0] - first[0])
        pairs = zip(self._samples, self._samples[1:])
        return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairs) / (last[0] - first[0])
