"""From devices to whole numbers that fulfil C1 to C6."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coformer_compiler.decomposer.constraints import excess
from coformer_compiler.decomposer.options import PolicyOptions
from coformer_compiler.decomposer.policy import teacher_shape
from coformer_compiler.decomposer.shapes import MemberShape, member_cost
from coformer_compiler.decomposer.strategies import (
    STRATEGIES,
    Shapes,
    proportional_shares,
    shapes_by_strategy,
    shapes_from_shares,
    uniform_shares,
)
from coformer_compiler.device import Device
from coformer_compiler.evaluator.memory import memory_mb
from coformer_compiler.model.spec import TransformerSpec
from coformer_runtime.errors import CoformerError
from tests.compiler.decomposer.boards import board, boards
from tests.compiler.tiny import tiny_spec, tiny_swin

TEACHER = tiny_spec(embed=96, heads=6, head_dim=16, neurons=384, layers=3, image=(8, 8), patch=(2, 2))


def shapes_of(
    strategy: str, devices: list[Device], *, teacher: TransformerSpec = TEACHER, overlap: bool = False, **asked: Any
) -> Shapes:
    return shapes_by_strategy(PolicyOptions(strategy, overlap=overlap, **asked), teacher, devices)


@st.composite
def clusters(draw: st.DrawFn) -> list[Device]:
    """One to five devices of any speed and of unlike alignment."""
    return [
        board(f"d{n}", gflops=draw(st.floats(0.1, 1000)), alignment=draw(st.sampled_from([1, 4, 8, 16])))
        for n in range(draw(st.integers(1, 5)))
    ]


@st.composite
def teachers(draw: st.DrawFn) -> TransformerSpec:
    """Any size that five devices can share."""
    return tiny_spec(
        embed=draw(st.integers(20, 200)),
        heads=draw(st.integers(5, 16)),
        neurons=draw(st.integers(20, 300)),
        layers=draw(st.integers(1, 3)),
    )


@given(clusters(), teachers(), st.sampled_from(sorted(STRATEGIES)))
def test_constraints_hold_by_construction(devices: list[Device], teacher: TransformerSpec, strategy: str) -> None:
    found = shapes_of(strategy, devices, teacher=teacher)
    shape = teacher_shape(teacher)
    assert found.notes == ()
    assert len(found.members) == len(devices)
    assert sum(member.embed for member in found.members) <= shape.embed  # C2
    for member, device in zip(found.members, devices, strict=True):
        assert list(member.heads) == list(member.neurons) == list(range(shape.layers))  # C1
        assert min(member.heads.values()) >= 1
        step = member.embed if member.embed < 4 else min(4, device.target.alignment)
        assert member.embed % step == 0
        assert all(count % step == 0 for count in member.neurons.values())
    for layer in range(shape.layers):
        assert sum(member.heads[layer] for member in found.members) <= shape.heads[layer]  # C3
        assert sum(member.neurons[layer] for member in found.members) <= shape.neurons[layer]  # C4


@given(clusters())
def test_widths_are_multiples_of_the_alignment(devices: list[Device]) -> None:
    """A teacher wide enough for it."""
    teacher = tiny_spec(embed=256, heads=8, neurons=1024, layers=1)
    for member, device in zip(shapes_of("proportional", devices, teacher=teacher).members, devices, strict=True):
        assert member.embed % device.target.alignment == 0
        assert member.neurons[0] % device.target.alignment == 0


@given(clusters())
def test_the_faster_device_gets_no_less(devices: list[Device]) -> None:
    devices = [board(device.name, gflops=device.gflops) for device in devices]
    members = shapes_of("proportional", devices).members
    ranked = sorted(zip(devices, members, strict=True), key=lambda pair: pair[0].gflops)
    for (slow, less), (fast, more) in pairwise(ranked):
        assert more.embed >= less.embed or fast.gflops == slow.gflops
        assert more.neurons[0] >= less.neurons[0] or fast.gflops == slow.gflops


def test_shares() -> None:
    assert uniform_shares(boards(1, 5, 9)) == pytest.approx([1 / 3] * 3)
    assert proportional_shares(boards(1, 4, 9)) == pytest.approx([1 / 6, 2 / 6, 3 / 6])


def test_thirds() -> None:
    third = MemberShape(32, dict.fromkeys(range(3), 2), dict.fromkeys(range(3), 128))
    assert shapes_of("uniform", boards(1, 5, 9)).members == (third,) * 3
    assert shapes_of("proportional", boards(7, 7, 7)).members == (third,) * 3


def test_one_device_keeps_everything() -> None:
    (member,) = shapes_of("uniform", boards(1)).members
    assert member == MemberShape(96, dict.fromkeys(range(3), 6), dict.fromkeys(range(3), 384))


def test_overlap_drops_the_sums_of_heads_and_neurons_alone() -> None:
    shape = teacher_shape(TEACHER)
    members = shapes_from_shares(shape, boards(1, 1, 1, 1), [0.25] * 4, [0.9] * 4, overlap=True)
    assert sum(member.embed for member in members) <= 96
    assert [member.heads[0] for member in members] == [5] * 4
    assert [member.neurons[0] for member in members] == [344] * 4


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_overlap_fills_devices_with_heads_and_neurons_up_to_their_own_limits(strategy: str) -> None:
    free = shapes_of(strategy, boards(1, 1), overlap=True)
    whole = MemberShape(48, dict.fromkeys(range(3), 6), dict.fromkeys(range(3), 384))
    assert free.members == (whole, whole)
    work = member_cost(TEACHER, whole, shortcuts=False).flops / 1e9
    found = shapes_of(strategy, [board("d0", gflops=1), board("d1", gflops=1, max_gflop=0.7 * work)], overlap=True)
    assert found.notes == ("'d1' was shrunk until C5 held",)
    assert [member.embed for member in found.members] == [48, 48]
    assert found.members[0] == (whole if strategy == "proportional" else found.members[1])
    assert 192 < found.members[1].neurons[0] < 384
    assert 0.6 * work < member_cost(TEACHER, found.members[1], shortcuts=False).flops / 1e9 <= 0.7 * work


def test_overlap_gives_way_to_the_stream_where_its_own_share_is_too_much() -> None:
    share = shapes_of("proportional", boards(1, 1)).members[0]
    work = member_cost(TEACHER, share, shortcuts=False).flops / 1e9
    found = shapes_of("proportional", [board("d0", gflops=1), board("d1", gflops=1, max_gflop=work / 2)], overlap=True)
    assert found.members[1].embed < 48
    assert work / 4 < member_cost(TEACHER, found.members[1], shortcuts=False).flops / 1e9 <= work / 2


def test_a_device_is_shrunk_until_it_fits_and_it_is_said() -> None:
    free = shapes_of("proportional", boards(1, 1)).members
    work = member_cost(TEACHER, free[0], shortcuts=False).flops / 1e9
    devices = [board("d0", max_gflop=work / 2, gflops=1), board("d1", gflops=1)]
    found = shapes_of("proportional", devices)
    assert found.notes == ("'d0' was shrunk until C5 held",)
    assert found.members[1] == free[1]
    assert work / 4 < member_cost(TEACHER, found.members[0], shortcuts=False).flops / 1e9 <= work / 2


def test_memory_shrinks_too() -> None:
    free = shapes_of("proportional", boards(1, 1)).members
    needed = memory_mb(member_cost(TEACHER, free[1], shortcuts=False), board().target)
    devices = [board("d0", gflops=1), board("d1", gflops=1, memory_mb=needed - 0.2)]
    found = shapes_of("proportional", devices)
    assert found.notes == ("'d1' was shrunk until C6 held",)
    assert memory_mb(member_cost(TEACHER, found.members[1], shortcuts=False), board().target) <= needed - 0.2
    assert all(
        excess(TEACHER, member, device, shortcuts=False, features=96) is None
        for member, device in zip(found.members, devices, strict=True)
    )


def test_uniform_shrinks_all_alike() -> None:
    free = shapes_of("uniform", boards(1, 1)).members
    work = member_cost(TEACHER, free[0], shortcuts=False).flops / 1e9
    found = shapes_of("uniform", [board("d0"), board("d1", max_gflop=work / 2)])
    assert found.notes == ("'d1' was shrunk until C5 held",)
    assert found.members[0] == found.members[1]
    assert found.members[0].embed < free[0].embed


def test_shortcuts_count() -> None:
    """What fits without shortcut matrices need not fit with them."""
    (free,) = shapes_of("uniform", boards(1)).members
    limit = member_cost(TEACHER, free, shortcuts=False).flops / 1e9
    device = board(max_gflop=limit)
    assert shapes_of("uniform", [device]).notes == ()
    found = shapes_of("uniform", [device], shortcuts=True)
    assert found.notes == ("'attic' was shrunk until C5 held",)
    assert member_cost(TEACHER, found.members[0], shortcuts=True).flops / 1e9 <= limit


def assert_refuses(devices: list[Device], what: str, where: str, mend: str) -> None:
    for strategy in STRATEGIES:
        with pytest.raises(CoformerError) as caught:
            shapes_of(strategy, devices)
        assert re.fullmatch(what, caught.value.what), caught.value.what
        assert (caught.value.where, caught.value.mend) == (where, mend)
        assert caught.value.exit_code == 2


def test_a_device_too_small_for_any_member() -> None:
    number = r"[\d.e-]+"
    assert_refuses(
        [board("d0"), board("d1", memory_mb=60)],
        r"C6: the member needs 67\.\d+ MB of memory, the device has 60: short by 7\.\d+ MB",
        "device 'd1'",
        "raise memory_mb of 'd1' or give it a smaller share",
    )
    assert_refuses(
        [board("d0", max_gflop=1e-6), board("d1")],
        rf"C5: the member needs {number} GFLOP of work per inference, the device has 1e-06: short by {number} GFLOP",
        "device 'd0'",
        "raise max_gflop of 'd0' or give it a smaller share",
    )


def test_the_shortfall_is_that_of_the_smallest_member() -> None:
    device = board(memory_mb=60)
    with pytest.raises(CoformerError) as caught:
        shapes_of("uniform", [device])
    smallest = MemberShape(4, dict.fromkeys(range(3), 1), dict.fromkeys(range(3), 4))
    needed = memory_mb(member_cost(TEACHER, smallest, shortcuts=False), device.target)
    assert f"needs {needed:,.4g} MB of memory, the device has 60: short by {needed - 60:,.4g} MB" in caught.value.what


def test_more_devices_than_heads() -> None:
    assert_refuses(
        boards(*[1] * 7),
        "C3: 7 devices need at least 7 heads, the teacher has 6",
        "policy",
        "use fewer devices, or set policy.overlap = true",
    )
    members = shapes_of("uniform", boards(*[1] * 7), overlap=True).members
    assert [member.heads[0] for member in members] == [6] * 7
    assert sum(member.embed for member in members) <= 96


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_width_and_layers_that_are_asked_for(strategy: str) -> None:
    """The device that has a limit is filled with heads and neurons up to it, and keeps its width."""
    limit = member_cost(TEACHER, MemberShape(64, {0: 3, 2: 3}, {0: 192, 2: 192}), shortcuts=True).flops / 1e9
    devices = [board("d0"), board("d1", max_gflop=limit)]
    members = shapes_of(strategy, devices, overlap=True, shortcuts=True, embed=64, layers=(0, 2)).members
    for member, device in zip(members, devices, strict=True):
        assert member.embed == 64 and list(member.heads) == list(member.neurons) == [0, 2]
        work = member_cost(TEACHER, member, shortcuts=True).flops / 1e9
        assert device.max_gflop is None or 0.8 * device.max_gflop < work <= device.max_gflop
    if strategy == "proportional":
        assert members[0] == MemberShape(64, {0: 6, 2: 6}, {0: 384, 2: 384})


def test_layers_alone_leave_the_widths_to_shares() -> None:
    (first, second), (all_first, _) = (shapes_of("uniform", boards(1, 1), **a).members for a in ({"layers": (1,)}, {}))
    assert first == second == MemberShape(all_first.embed, {1: all_first.heads[1]}, {1: all_first.neurons[1]})


@pytest.mark.parametrize(
    ("asked", "what", "where", "mend"),
    [
        (
            {"layers": (0, 3)},
            "C1: layers = [0, 3] cannot be",
            "policy.layers",
            "name layers of 0 to 2, each once, ascending",
        ),
        (
            {"layers": (1, 0)},
            "C1: layers = [1, 0] cannot be",
            "policy.layers",
            "name layers of 0 to 2, each once, ascending",
        ),
        ({"embed": 100}, "C2: embed = 100 cannot be", "policy.embed", "choose a width from 2 to 96"),
        (
            {"embed": 64},
            "C2: embed = 64 for 2 devices adds up to more than 96",
            "policy.embed",
            "choose 48 or less, or set policy.overlap = true",
        ),
        (
            {"embed": 42},
            "C2: embed = 42 is no multiple of 4, which 'd0' computes in",
            "policy.embed",
            "choose a multiple of 4",
        ),
    ],
)
def test_width_and_layers_that_cannot_be(asked: dict[str, Any], what: str, where: str, mend: str) -> None:
    with pytest.raises(CoformerError) as caught:
        shapes_of("uniform", [board("d0", alignment=4), board("d1", alignment=4)], **asked)
    assert (caught.value.what, caught.value.where, caught.value.mend) == (what, where, mend)


def test_every_stage_keeps_a_layer() -> None:
    teacher = tiny_swin()
    with pytest.raises(CoformerError) as caught:
        shapes_of("uniform", boards(1), teacher=teacher, layers=(0, 1))
    assert caught.value.what == "C1: layers = [0, 1] cannot be"
    assert caught.value.mend.startswith("keep at least one layer of stage 1, ")


def test_more_devices_than_channels() -> None:
    """Shares of the stream add up to it, overlap or not."""
    with pytest.raises(CoformerError) as caught:
        shapes_of("uniform", boards(*[1] * 25), overlap=True)
    assert (caught.value.what, caught.value.mend) == (
        "C2: 25 devices need at least 100 channels, the teacher has 96",
        "use fewer devices",
    )
