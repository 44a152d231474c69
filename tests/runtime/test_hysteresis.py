"""Ranges of rates: a place moves for what is clear and lasts, and never flaps."""

from typing import List, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coformer_runtime.hysteresis import DWELL_S, MARGIN, Hysteresis
from coformer_runtime.link_rate import Rate

BOUNDARIES = (10.0, 100.0)
STEPS = st.lists(st.tuples(st.floats(0.1, 5.0), st.floats(0.1, 1000.0)), min_size=1, max_size=60)


def exactly(mbps: float) -> Rate:
    return Rate(mbps, mbps)


def walked(hysteresis: Hysteresis, steps: List[Tuple[float, float]]) -> List[Tuple[float, int]]:
    """(time, place) after each step of (seconds later, Mbit/s)."""
    now, places = 0.0, []
    for seconds, mbps in steps:
        now += seconds
        places.append((now, hysteresis.update(exactly(mbps), now)))
    return places


@pytest.mark.parametrize(("mbps", "place"), [(1.0, 0), (30.0, 1), (1000.0, 2)])
@pytest.mark.parametrize("start", [0, 1, 2])
def test_a_rate_that_lasts_is_followed(mbps: float, place: int, start: int) -> None:
    hysteresis = Hysteresis(BOUNDARIES, start)
    assert hysteresis.update(exactly(mbps), 100.0) == start
    assert hysteresis.update(exactly(mbps), 100.0 + DWELL_S) == place


def test_a_moment_is_not_followed() -> None:
    hysteresis = Hysteresis(BOUNDARIES, 1)
    for now in range(0, 100, 2):
        assert hysteresis.update(exactly(1.0 if now % 4 else 30.0), now) == 1


@given(st.integers(0, 1), st.lists(st.tuples(st.floats(0.1, 100.0), st.floats(-1.0, 1.0)), max_size=60))
def test_nothing_changes_near_a_boundary(side: int, steps: List[Tuple[float, float]]) -> None:
    for boundary, place in ((10.0, side), (100.0, 1 + side)):
        near = [(seconds, boundary * MARGIN ** (0.999 * power)) for seconds, power in steps]
        assert all(found == place for _, found in walked(Hysteresis(BOUNDARIES, place), near))


@given(st.integers(0, 2), STEPS)
def test_no_two_changes_are_near_to_each_other(start: int, steps: List[Tuple[float, float]]) -> None:
    changes, before = [], start
    for now, place in walked(Hysteresis(BOUNDARIES, start), steps):
        if place != before:
            changes.append(now)
        before = place
    assert all(later - earlier >= DWELL_S for earlier, later in zip(changes, changes[1:]))


@given(st.integers(0, 2), STEPS, st.floats(0.1, 1000.0))
def test_a_steady_rate_ends_at_its_own_place_or_beside_a_boundary(
    start: int, steps: List[Tuple[float, float]], mbps: float
) -> None:
    hysteresis = Hysteresis(BOUNDARIES, start)
    now = walked(hysteresis, steps)[-1][0]
    for seconds in (1.0, DWELL_S + 1, 2 * DWELL_S + 2):
        place = hysteresis.update(exactly(mbps), now + seconds)
    own = sum(mbps > boundary for boundary in BOUNDARIES)
    near = any(boundary / MARGIN <= mbps <= boundary * MARGIN for boundary in BOUNDARIES)
    assert place == own or (near and abs(place - own) == 1)


def test_what_is_not_known_changes_nothing() -> None:
    hysteresis = Hysteresis(BOUNDARIES, 1)
    for now in range(0, 60, 5):
        assert hysteresis.update(Rate(1.0, float("inf")), now) == 1
        assert hysteresis.update(None, now) == 1
