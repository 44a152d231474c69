"""The chaos benchmark measures what it says: faults meet their requests, ids are unique, leaks are found."""

import itertools
from typing import List

import pytest

from benchmarks.service import chaos, chaos_faults
from benchmarks.service.soak import SHOWN, Errors, leaking


@pytest.mark.slow
def test_each_fault_meets_its_request_in_each_way_of_answering(cluster_dirs: List[str]) -> None:
    found = chaos_faults.measure(cluster_dirs, len(chaos_faults.SITES))
    told = chaos_faults.report(found)
    assert {fault: each["samples"] for fault, each in told.items()} == {
        fault: len(chaos_faults.SITES) for fault in ("delay", "black hole", "drip", "drop", "refuse", "stop")
    }
    for fault, samples in found.items():
        expected = "unreachable: " if fault in ("drop", "refuse") else "late: no answer within "
        assert all(each.reason.startswith(expected) for each in samples), samples
        assert all(each.beyond_ms < 1000 for each in samples)
        if expected.startswith("late"):
            assert all(each.beyond_ms > -2 for each in samples)  # they were waited for


def test_what_was_not_asked_did_not_meet_the_fault() -> None:
    assert not chaos_faults.Sample(-99.0, "not asked: it failed 3 times in a row; it is asked again in 9 s").met
    assert not chaos_faults.Sample(-99.0, "").met
    assert chaos_faults.Sample(1.0, "late: no answer within 99 ms").met
    told = chaos_faults.report({"drip": [chaos_faults.Sample(float(ms), "late: ") for ms in range(100)], "drop": []})
    assert (told["drip"]["samples"], told["drip"]["p99"], told["drop"]["p99"]) == (100, 98.01, None)


def test_one_fault_beyond_the_limit_is_not_hidden_by_the_others() -> None:
    fine, late = [chaos_faults.Sample(1.0, "late: ")] * 100, [chaos_faults.Sample(50.0, "late: ")] * 100
    process = {"before": {"rss_kb": 10, "open_files": 3}, "after": {"rss_kb": 15, "open_files": 3}}
    measured = {
        "chaos": {
            "error_count": 0,
            "ids_lost_or_doubled": 0,
            "survivors_while_killed": {"desk": {"attic": process, "hall": process}},
        },
        "detection": {"next_answer_ms": [9.0], "recovery_s": [0.1], "resumed_s": [15.0]},
        "faults": chaos_faults.report(
            dict.fromkeys(["a", "b", "c", "d", "e"], fine),
        ),
    }
    assert chaos.judged(measured, 100)["over_deadline_ms"] == 1.0
    measured["faults"].update(chaos_faults.report({"f": late[:99]}))
    figures = chaos.judged(measured, 100)
    assert (figures["over_deadline_ms"], figures["samples_missing"], figures["rss_growth_kb"]) == (50.0, 1, 5)


def test_an_id_that_comes_twice_or_not_at_all_is_counted() -> None:
    tally = chaos.Tally()
    for number in (0, 1, 1, 3):
        tally.add(number, "", number == 3)
    assert (tally.lost_or_doubled(), tally.degraded) == (2, 1)
    assert list(itertools.islice(chaos.numbers_until(5, 3, 0), 9)) == [5, 6, 7]
    assert len(list(itertools.islice(chaos.numbers_until(5, 3, 60), 9))) == 9


def test_errors_are_counted_and_the_first_are_kept() -> None:
    errors = Errors()
    for number in range(1000):
        errors.add(str(number))
    assert errors.count == 1000 and errors.first == [str(number) for number in range(SHOWN)]


def test_a_leak_is_what_grows_in_every_round() -> None:
    rounds = [
        {
            "attic": {"rss_kb": 1608, "open_files": 0},
            "hall": {"rss_kb": 1600, "open_files": 0},
            "desk": {"rss_kb": 0, "open_files": 1},
        },
        {
            "attic": {"rss_kb": 0, "open_files": 0},
            "hall": {"rss_kb": 1300, "open_files": 0},
            "desk": {"rss_kb": 0, "open_files": 2},
        },
    ]
    assert leaking(rounds[:1]) == ["attic", "hall", "desk"]
    assert leaking(rounds) == ["hall", "desk"]
