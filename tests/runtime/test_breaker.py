"""Three failures in a row open it, one request in 15 s is let through, a success closes it."""

from typing import List

from hypothesis import given
from hypothesis import strategies as st

from coformer_runtime.breaker import FAILURES, OPEN_S, Breaker


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def opened(clock: Clock) -> Breaker:
    breaker = Breaker(clock)
    for _ in range(FAILURES):
        clock.now += 1
        assert breaker.admit()
        breaker.failed(clock.now)
    return breaker


def test_opens_probes_closes() -> None:
    clock = Clock()
    breaker = opened(clock)
    assert breaker.state() == "open" and not breaker.admit() and breaker.wait_s() == OPEN_S and breaker.opened == 1
    clock.now += OPEN_S - 0.01
    assert not breaker.admit()
    clock.now += 0.01
    assert breaker.state() == "half-open" and breaker.admit()
    assert breaker.state() == "open" and not breaker.admit()  # one probe an interval, also if it is never heard of
    breaker.succeeded()
    assert breaker.state() == "closed" and breaker.admit() and breaker.wait_s() == 0


def test_failed_probe_waits_a_whole_interval() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += OPEN_S
    assert breaker.admit()
    clock.now += 7
    breaker.failed(clock.now)
    clock.now += OPEN_S - 1
    assert not breaker.admit()
    clock.now += 1
    assert breaker.admit() and breaker.opened == 1


def test_one_broken_connection_is_one_failure() -> None:
    breaker = Breaker(Clock())
    for _ in range(20):
        breaker.failed(7.0)
    assert breaker.state() == "closed"


def test_busy_is_not_broken() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    breaker.succeeded()
    for _ in range(20):
        breaker.silent(asked=clock.now - 1, due=clock.now + 1)
    assert breaker.state() == "closed"
    for number in range(FAILURES):
        breaker.silent(asked=clock.now + 1, due=clock.now + 2 + number)
    assert breaker.state() == "open"


@given(st.lists(st.sampled_from(["fail", "succeed", "wait", "admit"]), max_size=60))
def test_any_history(history: List[str]) -> None:
    """Closed exactly while fewer than three failures follow the last success; never two probes in one interval."""
    clock = Clock()
    breaker, row, probes = Breaker(clock), 0, []
    for step in history:
        clock.now += 1
        if step == "fail":
            breaker.failed(clock.now)
            row += 1
        elif step == "succeed":
            breaker.succeeded()
            row, probes = 0, []
        elif step == "wait":
            clock.now += OPEN_S
        elif breaker.admit() and row >= FAILURES:
            assert not probes or clock.now - probes[-1] >= OPEN_S
            probes.append(clock.now)
        assert (breaker.state() == "closed") == (row < FAILURES)
