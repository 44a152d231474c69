"""The measured rate: what counts as time under way, what bounds what, and the median of the last samples."""

from concurrent.futures import Future
from typing import Dict, List

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coformer_runtime.link_rate import KEPT_S, LEAST, OVERHEAD_BYTES, WINDOW, LinkRate, Rate
from coformer_runtime.members import AWAY, Reply, failed

RATES = st.floats(0.05, 900.0)


class Clock:
    """Seconds that the test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def measured(rate: LinkRate) -> Rate:
    found = rate.rate()
    assert found is not None
    return found


def features(arrived: float, compute_ms: float = 0.0, waited_ms: float = 0.0, size: int = 10) -> Reply:
    return Reply(np.zeros((1, size), np.float32), "", "", compute_ms, arrived, waited_ms)


def test_there_is_no_rate_before_a_few_samples() -> None:
    rate = LinkRate()
    for count in range(LEAST):
        assert rate.rate() is None, count
        rate.note(125_000, 1.0)
    assert measured(rate) == Rate(pytest.approx(1.0), pytest.approx(1.0))


@given(RATES, st.integers(10_000, 200_000), st.floats(0.0001, 0.002))
def test_a_round_trip_is_taken_off(mbps: float, count: int, round_trip: float) -> None:
    rate = LinkRate()
    rate.round_trip(round_trip)
    for _ in range(LEAST):
        rate.note(count, count * 8e-6 / mbps + round_trip)
    low, high = measured(rate)
    assert low <= mbps * (1 + 1e-6) <= high * (1 + 2e-6)
    if count * 8e-6 / mbps > 10 * round_trip:
        assert low == pytest.approx(mbps, rel=1e-6) and high < 1.2 * mbps


def test_short_messages_on_a_fast_link_bound_it_from_below_only() -> None:
    rate = LinkRate()
    rate.round_trip(0.001)
    for _ in range(LEAST):
        rate.note(300, 0.0018)
    low, high = measured(rate)
    assert low == pytest.approx(3.0) and high == float("inf")


@given(st.lists(RATES, min_size=WINDOW, max_size=WINDOW), st.lists(RATES, max_size=WINDOW // 2))
def test_a_few_outliers_are_not_heard(steady: List[float], odd: List[float]) -> None:
    rate = LinkRate()
    for mbps in steady + odd:
        rate.note(125_000, 1.0 / mbps)
    last = (steady + odd)[-WINDOW:]
    assert min(last) * 0.999 <= measured(rate).low <= max(last) * 1.001
    assert measured(rate).low == pytest.approx(sorted(last)[WINDOW // 2], rel=1e-6)


def test_a_link_is_not_slow_where_two_of_the_last_samples_got_through() -> None:
    rate = LinkRate()
    for number in range(WINDOW):
        rate.note(125_000, 0.01 if number in (1, 4) else 1.0)
    assert measured(rate) == Rate(pytest.approx(1.0), pytest.approx(100.0))
    for _ in range(WINDOW - 2):
        rate.note(125_000, 1.0)
    assert measured(rate).high == pytest.approx(1.0)


def test_old_samples_are_forgotten() -> None:
    clock = Clock()
    rate = LinkRate(clock)
    for _ in range(LEAST):
        rate.note(125_000, 1.0)
    clock.now += KEPT_S - 1
    assert rate.rate() is not None
    clock.now += 2
    assert rate.rate() is None


@pytest.mark.parametrize("late", [False, True])
def test_neither_compute_nor_waiting_is_time_under_way(late: bool) -> None:
    """Two members: all bytes of both, over the longer way."""
    rate = LinkRate()
    for start in range(LEAST):
        futures: "Dict[int, Future[Reply]]" = {1: Future(), 2: Future()}
        rate.watch(start, 1000, futures)
        futures[2].set_result(features(start + 0.7, compute_ms=400, waited_ms=100))
        assert rate.rate() is None
        futures[1].set_result(features(start + (5.0 if late else 0.5), compute_ms=4900 if late else 400))
    total = 2 * (1000 + 40 + 2 * OVERHEAD_BYTES)
    assert measured(rate).low == pytest.approx(total * 8e-6 / 0.2)


def test_members_that_fail_measure_nothing() -> None:
    rate = LinkRate()
    for start in range(LEAST):
        futures: "Dict[int, Future[Reply]]" = {1: Future(), 2: Future()}
        rate.watch(start, 1000, futures)
        for future in futures.values():
            future.set_result(failed("away", AWAY))
    assert rate.rate() is None
