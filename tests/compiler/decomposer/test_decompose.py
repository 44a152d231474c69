"""Devices and importance in, a policy out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from coformer_compiler.decomposer.decompose import Decomposed, decompose
from coformer_compiler.decomposer.options import PolicyOptions
from coformer_compiler.decomposer.policy import policy_json, teacher_shape
from coformer_compiler.decomposer.shapes import member_cost, shape_of_member
from coformer_compiler.device import Device
from coformer_compiler.transplant.statistics import Statistics, statistics_from_batches
from coformer_runtime.errors import CoformerError
from tests.compiler.decomposer.boards import board, boards
from tests.compiler.tiny import random_inputs, random_model, tiny_spec

TEACHER = tiny_spec(embed=48, heads=6, neurons=60)


@cache
def random_statistics() -> Statistics:
    """Every importance another number."""
    random = torch.Generator().manual_seed(0)
    model, pixels = random_model(TEACHER), random_inputs(TEACHER, 2)
    measured = statistics_from_batches(model, [(pixels, torch.zeros(2, dtype=torch.int64))])
    scores = tuple(torch.rand(len(old), generator=random, dtype=torch.float64) for old in measured.scores)
    channels = torch.rand(TEACHER.embed, generator=random, dtype=torch.float64)
    return replace(measured, scores=scores, channel_scores=(channels,))


def run(
    devices: Sequence[Device],
    strategy: str = "proportional",
    *,
    method: str = "transplant",
    overlap: bool = False,
    file: Path | None = None,
) -> Decomposed:
    options = PolicyOptions(strategy, file, overlap, method, shortcuts=False)
    return decompose(TEACHER, random_statistics(), devices, options)


@pytest.mark.parametrize("strategy", ["uniform", "proportional"])
def test_heads_and_neurons_are_dealt_out(strategy: str) -> None:
    policy = run(boards(1, 2, 4), strategy).policy
    assert (policy.strategy, policy.teacher) == (strategy, teacher_shape(TEACHER))
    assert [member.device for member in policy.members] == ["d0", "d1", "d2"]
    assert all(member.channels is None for member in policy.members)
    for layer in range(2):
        for kind in ("heads", "neurons"):
            kept = [unit for member in policy.members for unit in getattr(member.layers[layer], kind)]
            assert len(kept) == len(set(kept))


def test_the_best_head_is_kept_by_someone() -> None:
    statistics = random_statistics()
    for layer, scores in enumerate(statistics.scores[::2]):
        kept = {head for member in run(boards(1, 2)).policy.members for head in member.layers[layer].heads}
        assert int(scores.argmax()) in kept


def test_index_slices_deal_channels_too() -> None:
    members = run(boards(1, 2, 4), method="index").policy.members
    channels = [channel for member in members for stage in member.channels or () for channel in stage]
    assert len(set(channels)) == len(channels) == sum(member.embed for member in members)


def test_overlap_gives_all_the_same_units() -> None:
    first, second = run(boards(3, 3), overlap=True).policy.members
    assert first.layers == second.layers


def test_the_same_twice() -> None:
    assert policy_json(run(boards(1, 2, 4)).policy) == policy_json(run(boards(1, 2, 4)).policy)


def test_notes_of_the_strategy_are_handed_on() -> None:
    work = member_cost(TEACHER, shape_of_member(run(boards(1, 1)).policy.members[0]), shortcuts=False).flops / 1e9
    found = run([board("d0", max_gflop=0.7 * work), board("d1")])
    assert found.notes == ("'d0' was shrunk until C5 held",)
    assert run(boards(1, 1)).notes == ()


def test_a_policy_file_in_another_order_of_devices(tmp_path: Path) -> None:
    """The members come in the order of the build's devices."""
    devices = boards(1, 2, 4)
    policy = run(devices).policy
    file = tmp_path / "policy.json"
    file.write_text(policy_json(replace(policy, members=policy.members[::-1])), encoding="utf-8")
    found = run(devices, "file", file=file)
    assert found.policy == policy
    assert found.notes == ()
    turned = run(devices[::-1], "file", file=file)
    assert turned.policy.members == policy.members[::-1]


def test_a_policy_file_is_checked(tmp_path: Path) -> None:
    file = tmp_path / "policy.json"
    file.write_text(policy_json(run(boards(1, 2)).policy), encoding="utf-8")
    with pytest.raises(CoformerError, match="it is for the devices d0, d1; the build has d0, other"):
        run([board("d0"), board("other")], "file", file=file)
    with pytest.raises(CoformerError, match=r"^device 'd1': C6: the member needs "):
        run([board("d0"), board("d1", memory_mb=3)], "file", file=file)
    with pytest.raises(CoformerError, match="cannot be read"):
        run(boards(1, 2), "file", file=tmp_path / "none.json")


def test_index_slices_need_channels_in_the_file(tmp_path: Path) -> None:
    """A policy made for transplanting names none."""
    file = tmp_path / "policy.json"
    file.write_text(policy_json(run(boards(1, 2)).policy), encoding="utf-8")
    with pytest.raises(CoformerError) as caught:
        run(boards(1, 2), "file", method="index", file=file)
    assert str(caught.value) == (
        "policy, device 'd0': names no channels, which index slicing needs; add \"channels\", or set policy.method = "
        "'transplant'"
    )
