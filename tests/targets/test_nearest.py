"""Tests of coformer_targets.nearest."""

from __future__ import annotations

from coformer_targets.nearest import nearest, suggestion


def test_the_nearest_word_wins() -> None:
    assert nearest("jetson-nan", ["cpu", "jetson-nano", "jetson-tx2"]) == "jetson-nano"
    assert nearest("JETSON-TX2", ["cpu", "jetson-nano", "jetson-tx2"]) == "jetson-tx2"


def test_nothing_is_near_a_strange_word() -> None:
    assert nearest("zzz", ["cpu", "jetson-nano"]) is None


def test_a_suggestion_names_the_nearest_or_all() -> None:
    assert suggestion("memory", ("memory_mb", "arch"), noun="key") == "did you mean the key 'memory_mb'?"
    assert suggestion("zzz", ("b", "a"), noun="key") == "known keys: a, b"
