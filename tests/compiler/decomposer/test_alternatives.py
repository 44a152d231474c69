"""One policy per bandwidth: the search's rule at each of them, boundaries between neighbours, and memory together."""

from __future__ import annotations

import functools
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coformer_compiler.config.sections import ProfilesSection
from coformer_compiler.decomposer.search.alternatives import Alternatives, alternatives_of, boundary, exact
from coformer_compiler.decomposer.search.front import picked
from coformer_compiler.decomposer.search.journal import Entry
from coformer_compiler.decomposer.search.recost import Recosting
from coformer_compiler.evaluator.energy import estimated_energy_mj
from coformer_compiler.evaluator.latency import LatencyModel, Network
from coformer_compiler.stages.alternatives import memory_together
from coformer_runtime.errors import CoformerError
from coformer_runtime.manifest_rules import DEVICE_NAME
from tests.compiler.decomposer.test_search import DELTA_PER_MS, SPEC, devices, run

RATES = st.floats(0.01, 2000.0)
PICKS = ("best", "knee", "fastest", "most-accurate")
BANDWIDTHS = (0.05, 1.0, 1000.0)


@functools.cache
def journal() -> tuple[Entry, ...]:
    """Random policies, and members so unlike that slow links change the order."""
    with TemporaryDirectory() as folder:
        return tuple(run(Path(folder), "random", 40))


def recosting(entries: tuple[Entry, ...], **changes: float) -> Recosting:
    return Recosting(
        entries, SPEC, devices(3, **changes), Network(), delta_per_ms=DELTA_PER_MS, loss="aggregated", shortcuts=True
    )


@functools.cache
def model(mbps: float) -> LatencyModel:
    return LatencyModel(SPEC, devices(3), Network(mbps))


def latency(entry: Entry, mbps: float) -> float:
    return model(mbps).of_shapes(entry.shapes, shortcuts=True).total_ms


def found(pick: str = "best", *bandwidths: float) -> Alternatives:
    return alternatives_of(recosting(journal()), pick, bandwidths or BANDWIDTHS)


def test_only_latency_and_what_hangs_on_it_change_with_the_bandwidth() -> None:
    for mbps in BANDWIDTHS:
        for before, after in zip(journal(), recosting(journal()).at(mbps), strict=True):
            assert after is not None
            assert (after.point, after.shapes) == (before.point, before.shapes)
            assert (after.score.loss, after.score.members_loss) == (before.score.loss, before.score.members_loss)
            assert after.score.latency.total_ms == pytest.approx(latency(before, mbps), rel=1e-12)
            assert after.score.objective == pytest.approx(
                before.score.loss + DELTA_PER_MS * latency(before, mbps), rel=1e-12
            )
            kept = [d for d, shape in zip(devices(3), before.shapes, strict=True) if shape is not None]
            assert after.score.energy_mj == estimated_energy_mj(kept, after.score.latency)


@pytest.mark.parametrize("pick", PICKS)
def test_the_rule_of_the_search_holds_at_each_bandwidth(pick: str) -> None:
    made = found(pick)
    for n, mbps in enumerate(BANDWIDTHS):
        entries = [entry for entry in recosting(journal()).at(mbps) if entry is not None]
        alternative = made.built[made.at(mbps)]
        assert journal()[alternative.number].shapes == picked(entries, pick).shapes
        assert alternative.latency_ms[n] == pytest.approx(latency(journal()[alternative.number], mbps), rel=1e-12)
    assert made.built[0].name == "0.05mbps"
    assert len({each.number for each in made.built}) == len(made.built)


def test_names_tell_rates_apart_that_agree_to_six_digits() -> None:
    """Folders and bundles are named after them."""
    rates = (1000.0, 1000.0001, 0.1 + 0.2, 0.3, 1e-5, 2.5e7)
    assert [exact(rate) for rate in rates] == ["1000", "1000.0001", "0.30000000000000004", "0.3", "0.00001", "25000000"]
    close = (0.05, float(np.nextafter(0.05, 1)))
    names = [exact(rate) for rate in close]
    assert len(set(names)) == 2 and [float(name) for name in names] == list(close)


@given(RATES)
def test_names_are_exact_and_may_be_folders(mbps: float) -> None:
    assert float(exact(mbps)) == mbps
    assert DEVICE_NAME.fullmatch(f"{exact(mbps)}mbps")


def test_the_most_accurate_is_one_for_all() -> None:
    made = found("most-accurate")
    assert [(each.from_mbps, each.to_mbps, each.alternative) for each in made.ranges] == [(0.0, None, 0)]


def test_policies_change_with_the_bandwidth_and_at_the_boundary_both_are_worth_the_same() -> None:
    made = found("best")
    assert len(made.built) >= 2
    looked = recosting(journal())
    for one, other in pairwise(made.ranges):
        assert one.to_mbps is not None and one.to_mbps == other.from_mbps
        entries = looked.at(one.to_mbps)
        first, second = (entries[made.built[each.alternative].number] for each in (one, other))
        assert first is not None and second is not None
        assert first.score.objective == pytest.approx(second.score.objective, rel=1e-9)


@settings(max_examples=12, deadline=None)
@given(st.lists(RATES, min_size=2, max_size=5, unique=True).map(sorted), st.sampled_from(PICKS))
def test_ranges_cover_every_rate_once(bandwidths: list[float], pick: str) -> None:
    made = found(pick, *bandwidths)
    assert made.ranges[0].from_mbps == 0.0 and made.ranges[-1].to_mbps is None
    ends = [each.to_mbps for each in made.ranges[:-1]]
    assert ends == [each.from_mbps for each in made.ranges[1:]]
    assert all(a is not None and b is not None and a < b for a, b in pairwise(ends))
    assert all(a.alternative != b.alternative for a, b in pairwise(made.ranges))
    assert {each.alternative for each in made.ranges} == set(range(len(made.built)))
    for end in ends:
        assert any(a <= end <= b for a, b in pairwise(bandwidths))  # type: ignore[operator]


@settings(max_examples=25, deadline=None)
@given(st.lists(RATES, min_size=2, max_size=4, unique=True).map(sorted))
def test_picks_are_monotone(bandwidths: list[float]) -> None:
    """More bandwidth makes no policy slower; the best objective, the least latency and the loss under a limit fall."""
    looked = recosting(journal())
    totals = np.stack([looked.latencies(mbps).total_ms for mbps in bandwidths])
    assert (np.diff(totals, axis=0) <= 1e-9).all()
    costed = [[entry for entry in looked.at(mbps) if entry is not None] for mbps in bandwidths]
    best = [picked(entries, "best").score.objective for entries in costed]
    fastest = [picked(entries, "fastest").score.latency.total_ms for entries in costed]
    limit = f"under={float(np.median(totals[0]))}"
    under = [picked(entries, limit).score.loss for entries in costed]
    for values in (best, fastest, under):
        assert all(later <= earlier + 1e-9 for earlier, later in pairwise(values))


def test_a_limit_changes_policies_where_the_better_one_gets_below_it() -> None:
    looked = recosting(journal())
    limit = 1.01 * latency(picked(journal(), "most-accurate"), 100.0)
    made = alternatives_of(looked, f"under={limit}", (0.3, 1000.0))
    assert len(made.built) == 2
    end = made.ranges[0].to_mbps
    assert end is not None
    second = looked.entries[made.built[1].number]
    assert latency(second, end) <= limit < latency(second, end * 0.999)


def test_equal_entries_meet_at_the_geometric_mean() -> None:
    twice = (journal()[0], journal()[0])
    assert boundary(recosting(twice), "best", (0, 1), (1.0, 100.0)) == pytest.approx(10.0)


def test_deadlines_hold_at_every_bandwidth() -> None:
    arrivals = recosting(journal()).latencies(0.05).arrival_ms[2]
    deadline = float(np.median(arrivals[arrivals > 0]))
    looked = recosting(journal(), deadline_ms=deadline)
    entries = looked.at(0.05)
    late = [entry is None for entry in entries]
    assert late == list(arrivals > deadline) and any(late)
    made = alternatives_of(looked, "most-accurate", (0.05, 1000.0))
    assert entries[made.built[made.at(0.05)].number] is not None


def test_a_bandwidth_that_nothing_is_in_time_at_is_named() -> None:
    entries = tuple(entry for entry in journal() if entry.shapes[2] is not None)
    with pytest.raises(
        CoformerError, match=r"no evaluated policy meets the deadlines at 0\.05 Mbit/s \(estimated\)"
    ) as caught:
        alternatives_of(recosting(entries, deadline_ms=0.1), "best", (0.05, 1000.0))
    assert "leave this bandwidth away" in caught.value.mend
    with pytest.raises(CoformerError, match=r"at 0\.05 Mbit/s no evaluated policy is under 0\.01 ms"):
        alternatives_of(recosting(entries), "under=0.01", (0.05, 1000.0))


def test_memory_together_counts_the_library_once() -> None:
    cluster = devices(3)
    shapes = journal()[0].shapes
    alone = memory_together(SPEC, cluster, ProfilesSection(), [shapes], shortcuts=True)
    both = memory_together(SPEC, cluster, ProfilesSection(), [shapes, shapes], shortcuts=True)
    for device in cluster:
        library = device.target.runtime_mb
        assert both[device.name] - library == pytest.approx(2 * (alone[device.name] - library))
    assert memory_together(SPEC, cluster, ProfilesSection(), [(shapes[0], None, None)], shortcuts=True).keys() == {"0"}
