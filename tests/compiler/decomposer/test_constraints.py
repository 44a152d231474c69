"""C1 to C6 on finished policies, each with its message."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coformer_compiler.decomposer.constraints import check_policy, excess
from coformer_compiler.decomposer.policy import LayerShare, MemberPolicy, Policy, teacher_shape
from coformer_compiler.decomposer.shapes import feature_widths, member_cost, shape_of_member
from coformer_compiler.device import Device
from coformer_compiler.evaluator.memory import memory_mb
from coformer_runtime.errors import CoformerError
from tests.compiler.decomposer.boards import board
from tests.compiler.tiny import tiny_spec, tiny_swin

TEACHER = tiny_spec()
SHAPE = teacher_shape(TEACHER)
DEVICES = [board("attic"), board("hall")]
ATTIC = MemberPolicy("attic", 8, (LayerShare(0, (0, 2), (1, 5, 7)), LayerShare(1, (1,), (0, 19))))
HALL = MemberPolicy("hall", 4, (LayerShare(1, (0,), (3,)),))


def check(*members: MemberPolicy, devices: list[Device] = DEVICES, overlap: bool = False) -> None:
    check_policy(Policy("file", SHAPE, members), TEACHER, SHAPE, devices, overlap=overlap, shortcuts=False)


def assert_refuses(
    what: str, where: str, mend: str, *members: MemberPolicy, devices: list[Device] = DEVICES, overlap: bool = False
) -> None:
    with pytest.raises(CoformerError) as caught:
        check(*members, devices=devices, overlap=overlap)
    assert (caught.value.what, caught.value.where, caught.value.mend) == (what, where, mend)
    assert caught.value.exit_code == 2


def test_a_policy_that_fulfils_everything() -> None:
    check(ATTIC, HALL)
    check(HALL, ATTIC)


def test_another_teacher() -> None:
    other = replace(SHAPE, layers=3, heads=(3, 3, 3), neurons=(20, 20, 20))
    with pytest.raises(CoformerError) as caught:
        check_policy(Policy("file", other, (ATTIC, HALL)), TEACHER, SHAPE, DEVICES, overlap=False, shortcuts=False)
    assert str(caught.value) == (
        "policy: made for a teacher of 3 layers, embed 12, 3 heads, 20 neurons, this one has 2 layers, embed 12, 3 "
        "heads, 20 neurons; make a policy for this teacher"
    )


@pytest.mark.parametrize(
    ("members", "named"),
    [
        ((ATTIC, replace(HALL, device="desk")), "attic, desk"),
        ((ATTIC, replace(HALL, device="attic")), "attic, attic"),
        ((ATTIC, HALL, replace(HALL, device="desk")), "attic, hall, desk"),
    ],
)
def test_other_devices(members: tuple[MemberPolicy, ...], named: str) -> None:
    assert_refuses(
        f"it is for the devices {named}; the build has attic, hall",
        "policy",
        "name devices of the build, each once",
        *members,
    )


def test_a_device_may_be_left_out_but_not_the_central_one() -> None:
    devices = [replace(DEVICES[0], central=True), DEVICES[1]]
    check_policy(Policy("file", SHAPE, (ATTIC,)), TEACHER, SHAPE, devices, overlap=False, shortcuts=False)
    assert_refuses(
        "it leaves out 'attic', which aggregates",
        "policy",
        "give it a member, or make another device central",
        HALL,
        devices=devices,
    )


@pytest.mark.parametrize("layers", [[], [0, 0], [1, 0], [0, 2], [-1, 0]])
def test_c1_layers(layers: list[int]) -> None:
    member = replace(ATTIC, layers=tuple(LayerShare(layer, (1,), (0,)) for layer in layers))
    assert_refuses(
        f"C1: keeps the layers {layers} of 2",
        "policy, device 'attic'",
        "name each layer once, ascending",
        member,
        HALL,
    )


@pytest.mark.parametrize("embed", [-1, 0, 1, 13])
def test_c2_width(embed: int) -> None:
    assert_refuses(
        f"C2: embed {embed} is not within 2 to 12",
        "policy, device 'attic'",
        "choose a width between",
        replace(ATTIC, embed=embed),
        HALL,
    )


def test_c2_sum() -> None:
    hall = replace(HALL, embed=6)
    mend = "make a member narrower, or set policy.overlap = true"
    assert_refuses("C2: the widths add up to 14, 2 more than 12", "policy", mend, ATTIC, hall)
    check(ATTIC, hall, overlap=True)


@pytest.mark.parametrize("units", [(), (2, 0), (0, 0), (-1, 0), (0, 3)])
def test_heads_out_of_order_or_range(units: tuple[int, ...]) -> None:
    assert_refuses(
        f"layer 0 keeps heads {list(units)} of 3",
        "policy, device 'attic'",
        "name at least one of 0 to 2, each once, ascending",
        replace(ATTIC, layers=(LayerShare(0, units, (1,)),)),
        HALL,
    )


@pytest.mark.parametrize("units", [(), (5, 1), (1, 1), (-2,), (20,)])
def test_neurons_out_of_order_or_range(units: tuple[int, ...]) -> None:
    assert_refuses(
        f"layer 1 keeps neurons {list(units)} of 20",
        "policy, device 'hall'",
        "name at least one of 0 to 19, each once, ascending",
        ATTIC,
        replace(HALL, layers=(LayerShare(1, (0,), units),)),
    )


@pytest.mark.parametrize(
    ("share", "what"),
    [
        (LayerShare(1, (1,), (3,)), "C3: layer 1, head 1 is kept by both 'attic' and 'hall'"),
        (LayerShare(1, (0,), (3, 19)), "C4: layer 1, neuron 19 is kept by both 'attic' and 'hall'"),
    ],
)
def test_c3_c4_shared_units(share: LayerShare, what: str) -> None:
    hall = replace(HALL, layers=(share,))
    assert_refuses(what, "policy", "give it to one of them, or set policy.overlap = true", ATTIC, hall)
    check(ATTIC, hall, overlap=True)


def test_a_dropped_layer_leaves_its_units_to_the_others() -> None:
    check(ATTIC, replace(HALL, layers=(LayerShare(1, (0, 2), (3,)),)))


@pytest.mark.parametrize(
    "channels", [(0, 1, 2), (0, 1, 2, 2), (0, 1, 2, 2, 3), (0, 1, 2, 12), (-1, 0, 1, 2), (3, 2, 1, 0)]
)
def test_channels(channels: tuple[int, ...]) -> None:
    assert_refuses(
        f"names the channels {list(channels)} for embed 4",
        "policy, device 'hall'",
        "name as many of 0 to 11, each once, ascending",
        ATTIC,
        replace(HALL, channels=(channels,)),
    )
    check(ATTIC, replace(HALL, channels=((0, 3, 5, 11),)))
    assert_refuses(
        "names the channels of 2 stages of 1",
        "policy, device 'hall'",
        "give one list per stage",
        ATTIC,
        replace(HALL, channels=((0, 3, 5, 11), (0,))),
    )


def test_every_stage_keeps_a_layer() -> None:
    teacher = tiny_swin()
    shape = teacher_shape(teacher)
    member = MemberPolicy("attic", 8, (LayerShare(0, (0,), (1,)), LayerShare(1, (1,), (0,))))
    with pytest.raises(CoformerError) as caught:
        check_policy(Policy("file", shape, (member,)), teacher, shape, [board("attic")], overlap=False, shortcuts=False)
    assert (caught.value.what, caught.value.where, caught.value.mend) == (
        "C1: keeps no layer of stage 1 (layers 2 to 3)",
        "policy, device 'attic'",
        "keep at least one",
    )


def test_c5_names_the_shortfall() -> None:
    work = member_cost(TEACHER, shape_of_member(HALL), shortcuts=False).flops / 1e9
    limit = work / 4
    assert_refuses(
        f"C5: the member needs {work:,.4g} GFLOP of work per inference, the device has {limit:,.4g}: short by "
        f"{work - limit:,.4g} GFLOP",
        "device 'hall'",
        "raise max_gflop of 'hall' or give it a smaller share",
        ATTIC,
        HALL,
        devices=[board("hall", max_gflop=limit), board("attic")],
    )
    check(ATTIC, HALL, devices=[board("hall", max_gflop=work), board("attic")])


def test_c6_names_the_shortfall() -> None:
    needed = memory_mb(member_cost(TEACHER, shape_of_member(ATTIC), shortcuts=False), DEVICES[0].target)
    assert_refuses(
        f"C6: the member needs {needed:,.4g} MB of memory, the device has 42: short by {needed - 42:,.4g} MB",
        "device 'attic'",
        "raise memory_mb of 'attic' or give it a smaller share",
        ATTIC,
        HALL,
        devices=[board("attic", memory_mb=42), board("hall")],
    )
    check(ATTIC, HALL, devices=[board("attic", memory_mb=needed), board("hall")])


@pytest.mark.parametrize("role", ["central", "standby"])
def test_c6_counts_the_aggregator_where_it_is_loaded(role: str) -> None:
    teacher = replace(TEACHER, head=replace(TEACHER.head, classes=50_000))
    features = sum(feature_widths(teacher, [shape_of_member(ATTIC), shape_of_member(HALL)]))
    own = memory_mb(member_cost(TEACHER, shape_of_member(ATTIC), shortcuts=False), DEVICES[0].target)
    aggregator = (features + 1) * 50_000 * 4 / 1e6
    needed, limit = own + aggregator, own + aggregator - 1
    devices = [replace(board("attic", memory_mb=limit), **{role: True}), board("hall")]
    with pytest.raises(CoformerError) as caught:
        check_policy(Policy("file", SHAPE, (ATTIC, HALL)), teacher, SHAPE, devices, overlap=False, shortcuts=False)
    assert str(caught.value) == (
        f"device 'attic': C6: the member needs {needed:,.4g} MB of memory ({aggregator:,.4g} MB for the aggregator), "
        f"the device has {limit:,.4g}: short by 1 MB; raise memory_mb of 'attic' or give it a smaller share"
    )
    devices = [board("attic", memory_mb=limit), board("hall")]
    check_policy(Policy("file", SHAPE, (ATTIC, HALL)), teacher, SHAPE, devices, overlap=False, shortcuts=False)


def test_c5_comes_before_c6() -> None:
    found = excess(TEACHER, shape_of_member(ATTIC), board(max_gflop=1e-9, memory_mb=1), shortcuts=False, features=48)
    assert found is not None
    assert found.constraint == "C5"
