"""`coformer-node profile`: every graph of a pack measured on this board, into a CSV that can be gone on with.

per graph: open (TensorRT: build a plan first) → warm-up → runs → stable? else again → one line of CSV

A machine is never as fast for long: it throttles, or does other work for a while, and that slows many runs alike. So
one graph of the pack is the reference. It runs between the runs of every point, and a run counts as what it takes in
units of the reference's runs right before and after. On a virtual machine whose plain medians of a graph scatter by
4 to 9 % (standard deviation), those taken so scatter by 1 to 3 % (eight repetitions of four graphs of 1 to 16 ms).
"""

import math
import os
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from .arrays import Array
from .errors import CoformerError
from .profile_engines import Opener, opener_for
from .profile_pack import Pack, Point
from .profile_points import (
    SLOWER,
    MeasuredPoint,
    Provenance,
    append_point,
    drop_torn_line,
    read_points,
    stable_points,
    write_csv,
)
from .vitals import machine_name, power_mode, temperature_c

RUNS = 50  # as in the paper
WARM_UP = 5
BLOCK = 5
"""Most runs of a graph between two runs of the reference; fewer of a slow one, so that a block takes about as long."""

REFERENCE_RUNS, REFERENCE_TRIES = 11, 10
ATTEMPTS = 4
SPREAD, DRIFT = 0.10, 0.05
"""A point is stable when the interquartile range of its runs, and the difference between the medians of their two
halves, are within these parts of the median, and the reference is slower than at its best by no more than SLOWER."""

_SAY_EVERY_S = 5.0


class Timing(NamedTuple):
    """Runs of one graph among runs of the reference; see `MeasuredPoint`."""

    median_ms: float
    spread: float
    drift: float
    reference_ms: float

    @property
    def stable(self) -> bool:
        """Whether it passes the gate."""
        return self.spread <= SPREAD and self.drift <= DRIFT


CLOCKS: Dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
"""What runs are timed by. Processor time leaves out what other programs took; it is the latency of an engine that runs
in one thread, and of no other."""


def profile_pack(
    pack: Pack,
    csv_path: str,
    threads: int,
    clock: str = "wall",
    again: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Tuple[int, int]:
    """Measure what the CSV does not hold yet.

    Args:
        pack: a verified pack.
        csv_path: begun where it is not there.
        threads: of one inference (ONNX Runtime).
        clock: a name in CLOCKS.
        again: measure those points anew that were not stable.
        say: told how far it is.

    Returns:
        How many points the file holds, and how many of them are not stable and will not be fitted.

    Raises:
        CoformerError: the engine's library is missing or of another version than the pack is for, or the CSV was begun
            on another board, engine, power mode or pack: says which.
        CheckFailed: the engine refuses a graph.
    """
    if clock == "cpu" and (threads != 1 or pack.engine != "onnxruntime"):
        raise CoformerError(
            "processor time is the latency of one thread only",
            "--cpu-time",
            "leave it away, or give --threads 1 and a pack for ONNX Runtime",
        )
    with opener_for(pack, threads, os.path.dirname(os.path.abspath(csv_path))) as opener:
        here = provenance_here(pack, opener, threads, clock)
        done = _begun(csv_path, here)
        if again:
            done = stable_points(done)
            write_csv(csv_path, here, done)
        left = [point for point in pack.points if point.graph not in {each.graph for each in done}]
        noisy = len(done) - len(stable_points(done))
        progress = _Progress(len(pack.points), len(done), say)
        feeds = feeds_of(pack)
        with opener.open(reference_of(pack)) as engine:
            best = min([each.reference_ms for each in done] + [float("inf")])
            reference = Reference(lambda: engine.run(feeds), CLOCKS[clock], best if left else 1.0)
            for point in left:
                measured = measure_point(pack, point, opener, reference)
                _append(csv_path, measured)
                noisy += not measured.stable
                progress.tick(measured, noisy)
    points = read_points(csv_path).points
    return len(points), len(points) - len(stable_points(points))


class Reference:
    """The pack's reference graph, loaded all the time.

    Args:
        run: one inference of it.
        clock: gives seconds.
        best_ms: its best median so far; infinity where there is none, then it is looked for.

    Attributes:
        clock: see above.
        best_ms: its best median.
    """

    def __init__(self, run: Callable[[], Any], clock: Callable[[], float], best_ms: float) -> None:
        self._run, self.clock, self.best_ms = run, clock, best_ms
        if math.isinf(best_ms):
            for _ in range(REFERENCE_TRIES):
                self.seen(_quantile([self.run_ms() for _ in range(REFERENCE_RUNS)], 0.5))

    def run_ms(self) -> float:
        """Return what one run takes now."""
        return run_ms(self._run, self.clock)

    def seen(self, median_ms: float) -> None:
        """Take note of a median."""
        self.best_ms = min(self.best_ms, median_ms)

    def is_slow(self, median_ms: float) -> bool:
        """Whether the machine was so slow that units of the reference do not make up for it."""
        return median_ms > (1 + SLOWER) * self.best_ms


def reference_of(pack: Pack) -> Point:
    """Return the point of middling size: large enough to feel what slows the others."""

    def size(point: Point) -> int:
        return point.shape.embed * (sum(point.shape.neurons) + sum(point.shape.heads))

    return sorted(pack.points, key=size)[len(pack.points) // 2]


def feeds_of(pack: Pack) -> Dict[str, Array]:
    """Return random inputs for the graphs of a pack."""
    import numpy

    values = numpy.random.RandomState(0).randint(0, pack.input_below, pack.input_shape)
    return {pack.input_name: values.astype(pack.input_dtype)}


def _append(csv_path: str, point: MeasuredPoint) -> None:
    try:
        append_point(csv_path, point)
    except OSError as error:
        raise CoformerError(
            "cannot be written ({})".format(error.strerror),
            csv_path,
            "free some space, then run the same command again: it goes on from here",
        ) from error


def provenance_here(pack: Pack, opener: Opener, threads: int, clock: str) -> Provenance:
    """Return what points of this pack that are measured now are measured on."""
    board = ", ".join(word for word in (machine_name(), opener.device) if word)
    return Provenance(
        pack.sha256,
        pack.target,
        pack.engine,
        opener.version,
        pack.precision,
        board,
        threads,
        clock,
        power_mode(),
        pack.model,
        pack.spec,
    )


_WORDS = {
    "pack": "the pack",
    "target": "the target",
    "engine": "the engine",
    "engine_version": "the engine's version",
    "precision": "the precision",
    "board": "the board",
    "threads": "the number of threads",
    "clock": "the clock",
    "power_mode": "the power mode",
}


def _begun(csv_path: str, here: Provenance) -> Sequence[MeasuredPoint]:
    """Return what the file holds already; begin it where it is not there."""
    try:
        if not os.path.exists(csv_path):
            write_csv(csv_path, here)
            return ()
        drop_torn_line(csv_path)
    except OSError as error:
        raise CoformerError(
            "cannot be written ({})".format(error.strerror), csv_path, "name another file with -o"
        ) from error
    found = read_points(csv_path)
    told, now = found.provenance._asdict(), here._asdict()
    other = [
        "{} was '{}', here it is '{}'".format(_WORDS[key], _short(told[key]), _short(now[key]))
        for key in _WORDS
        if told[key] != now[key]
    ]
    if other:
        raise CoformerError(
            "it was begun on something else: {}".format("; ".join(other)),
            csv_path,
            "go on where it was begun, or measure into a new file with -o",
        )
    return found.points


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] + "..." if len(text) == 64 else text


def measure_point(pack: Pack, point: Point, opener: Opener, reference: Reference) -> MeasuredPoint:
    """Open one graph and measure it, again while it is not stable; the steadiest of the attempts counts."""
    feeds = feeds_of(pack)
    found: List[Tuple[float, Timing]] = []
    with opener.open(point) as engine:
        while len(found) < ATTEMPTS and not any(fault == 0 for fault, _ in found):
            timing = timing_of(lambda: engine.run(feeds), reference)
            reference.seen(timing.reference_ms)
            steady = timing.stable and not reference.is_slow(timing.reference_ms)
            slower = timing.reference_ms / reference.best_ms - 1
            found.append((0.0 if steady else timing.spread + timing.drift + slower, timing))
    fault, best = min(found, key=lambda each: each[0])
    return MeasuredPoint(
        point.graph,
        point.shape,
        best.median_ms,
        best.spread,
        best.drift,
        best.reference_ms,
        RUNS,
        len(found),
        fault == 0,
        temperature_c(),
    )


def timing_of(run: Callable[[], Any], reference: Reference, runs: int = RUNS, warm_up: int = WARM_UP) -> Timing:
    """Return the timing of `runs` runs after the warm-up, in blocks with a run of the reference around each."""
    warm_ms = [run_ms(run, reference.clock) for _ in range(warm_up)]
    around = [reference.run_ms()]
    block = max(1, min(BLOCK, int(around[0] / min(warm_ms)))) if warm_ms else 1
    relative: List[float] = []
    while len(relative) < runs:
        times_ms = [run_ms(run, reference.clock) for _ in range(min(block, runs - len(relative)))]
        around.append(reference.run_ms())
        unit_ms = (around[-2] + around[-1]) / 2
        relative += [each / unit_ms for each in times_ms]
    median, reference_ms = _quantile(relative, 0.5), _quantile(around, 0.5)
    halves = [_quantile(relative[: runs // 2], 0.5), _quantile(relative[runs // 2 :], 0.5)]
    spread = _quantile(relative, 0.75) - _quantile(relative, 0.25)
    return Timing(median * reference_ms, spread / median, abs(halves[0] - halves[1]) / median, reference_ms)


def run_ms(run: Callable[[], Any], clock: Callable[[], float]) -> float:
    """Return what one run takes."""
    started = clock()
    run()
    return (clock() - started) * 1e3


def _quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


class _Progress:
    """Says how far it is and how long the rest will take, every few seconds and at the end."""

    def __init__(self, total: int, done: int, say: Callable[[str], None]) -> None:
        self._total, self._done, self._begun, self._say = total, done, done, say
        self._started = self._said = time.monotonic()

    def tick(self, measured: MeasuredPoint, noisy: int) -> None:
        self._done += 1
        now = time.monotonic()
        if now - self._said < _SAY_EVERY_S and self._done < self._total:
            return
        self._said = now
        left_s = (now - self._started) / (self._done - self._begun) * (self._total - self._done)
        self._say(
            "{} of {} points, {} not stable, {}{} left; {}: {:.3g} ms".format(
                self._done, self._total, noisy, _temperature(measured.temperature_c), _time(left_s),
                measured.graph, measured.median_ms,
            )
        )  # fmt: skip


def _temperature(value: Optional[float]) -> str:
    return "" if value is None else "{:.0f} °C, ".format(value)


def _time(seconds: float) -> str:
    return "{:.0f} s".format(seconds) if seconds < 90 else "{:.0f} min".format(seconds / 60)
