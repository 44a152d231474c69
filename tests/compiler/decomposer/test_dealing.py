"""Dealing a ranking out among members."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from coformer_compiler.decomposer.dealing import deal, members_from_shapes
from coformer_compiler.decomposer.policy import LayerShare, MemberPolicy
from coformer_compiler.decomposer.shapes import MemberShape


@st.composite
def hands(draw: st.DrawFn) -> tuple[torch.Tensor, list[int]]:
    """Scores, with ties, and counts that fit."""
    scores = draw(st.lists(st.integers(0, 20), min_size=1, max_size=40))
    counts, left = [], len(scores)
    for _ in range(draw(st.integers(1, 6))):
        counts.append(draw(st.integers(0, left)))
        left -= counts[-1]
    return torch.tensor(scores, dtype=torch.float64), counts


@given(hands())
def test_everyone_gets_their_count_and_no_two_the_same(hand: tuple[torch.Tensor, list[int]]) -> None:
    scores, counts = hand
    dealt = deal(scores, counts)
    assert [len(units) for units in dealt] == counts
    every = [unit for units in dealt for unit in units]
    assert len(set(every)) == len(every)
    assert all(list(units) == sorted(units) for units in dealt)


@given(hands())
def test_the_best_are_dealt(hand: tuple[torch.Tensor, list[int]]) -> None:
    """Nothing that stays out is better than anything that is kept; among equals the smaller index goes first."""
    scores, counts = hand
    kept = {unit for units in deal(scores, counts) for unit in units}
    out = set(range(len(scores))) - kept
    if kept and out:
        worst = max((-float(scores[unit]), unit) for unit in kept)
        assert worst < min((-float(scores[unit]), unit) for unit in out)


@given(hands())
def test_it_is_fair(hand: tuple[torch.Tensor, list[int]]) -> None:
    """Wherever the deal stops, no member is a whole turn of the others ahead of its share."""
    scores, counts = hand
    dealt = deal(scores, counts)
    owner = {unit: n for n, units in enumerate(dealt) for unit in units}
    so_far = [0] * len(counts)
    for unit in sorted(owner, key=lambda unit: (-float(scores[unit]), unit)):
        n = owner[unit]
        behind = [(have + 0.5) / count for have, count in zip(so_far, counts, strict=True) if have < count]
        assert (so_far[n] + 0.5) / counts[n] == min(behind)
        so_far[n] += 1


@given(hands(), st.lists(st.integers(0, 40), min_size=1, max_size=4))
def test_the_deck_is_dealt_again_once_it_is_out(hand: tuple[torch.Tensor, list[int]], more: list[int]) -> None:
    """Nobody has a unit twice, and no unit is held twice more often than another; the better ones are held as often."""
    scores, counts = hand
    counts = [*counts, *(min(count, len(scores)) for count in more)]
    dealt = deal(scores, counts)
    assert [len(units) for units in dealt] == counts == [len(set(units)) for units in dealt]
    held = [sum(unit in units for units in dealt) for unit in range(len(scores))]
    if sum(counts) <= len(scores):
        assert max(held) <= 1
    elif len(set(counts)) == 1:
        assert max(held) - min(held) <= 1


def test_by_hand() -> None:
    scores = torch.tensor([0.1, 0.9, 0.5, 0.7, 0.3, 0.8])
    assert deal(scores, [2, 2, 2]) == [(1, 2), (4, 5), (0, 3)]
    assert deal(scores, [1, 3]) == [(5,), (1, 2, 3)]
    assert deal(scores, [4, 4]) == [(1, 3, 4, 5), (0, 1, 2, 5)]
    assert deal(scores, [6, 6]) == [(0, 1, 2, 3, 4, 5)] * 2


def test_members_from_shapes() -> None:
    """Layer by layer; a member that drops a layer leaves it to the others."""
    shapes = [MemberShape(4, {0: 1, 1: 2}, {0: 1, 1: 1}), MemberShape(2, {1: 1}, {1: 2})]
    scores = {
        ("attention", 0): torch.tensor([1.0, 2.0]),
        ("mlp", 0): torch.tensor([1.0, 3.0, 2.0]),
        ("attention", 1): torch.tensor([3.0, 1.0, 2.0]),
        ("mlp", 1): torch.tensor([1.0, 2.0, 3.0]),
    }
    assert members_from_shapes(["a", "b"], shapes, scores, None) == (
        MemberPolicy("a", 4, (LayerShare(0, (1,), (1,)), LayerShare(1, (0, 1), (1,)))),
        MemberPolicy("b", 2, (LayerShare(1, (2,), (0, 2)),)),
    )
    channels = [torch.tensor([6.0, 5, 4, 3, 2, 1])]
    sliced = members_from_shapes(["a", "b"], shapes, scores, channels)
    assert [len(stage) for member in sliced for stage in member.channels or ()] == [4, 2]
    assert sorted(sliced[0].channels[0] + sliced[1].channels[0]) == list(range(6))
