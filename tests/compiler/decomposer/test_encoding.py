"""Points of the search to shapes and back."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coformer_compiler.decomposer.policy import TeacherShape
from coformer_compiler.decomposer.search.encoding import Encoding, shapes_of, stick_breaking, sticks_of
from coformer_compiler.decomposer.shapes import MemberShape
from coformer_compiler.decomposer.strategies import alignment_of
from coformer_compiler.device import Device
from coformer_runtime.errors import CoformerError
from coformer_targets import load_target

SHAPE = TeacherShape(6, 96, (6,) * 6, (384,) * 6)
INFLUENCE = (0.5, 0.1, 0.4, 0.3, 0.2, 0.6)


def devices(count: int) -> tuple[Device, ...]:
    target = load_target("cpu")
    return tuple(Device(str(n), target, 10.0 + n, 500.0, None, n == 0) for n in range(count))


def encoding(count: int = 3, *, overlap: bool = False) -> Encoding:
    return Encoding(SHAPE, devices(count), INFLUENCE, overlap)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_sticks_and_shares_are_inverse(values: list[float]) -> None:
    shares = stick_breaking(values)
    assert all(share >= 0 for share in shares)
    assert sum(shares) <= 1 + 1e-9
    assert stick_breaking(sticks_of(shares)) == pytest.approx(shares, abs=1e-6)


def test_uniform_numbers_give_uniform_shares() -> None:
    random = np.random.default_rng(0)
    shares = np.array([stick_breaking(random.random(3)) for _ in range(4000)])
    # Uniform on the simplex of four parts: each has mean 1/4 and variance 3/80.
    assert shares.mean(0) == pytest.approx([0.25] * 3, abs=0.01)
    assert shares.var(0) == pytest.approx([3 / 80] * 3, abs=0.004)


@settings(max_examples=200)
@given(st.integers(1, 4), st.data())
def test_every_point_fulfils_the_sums(count: int, data: st.DataObject) -> None:
    code = encoding(count)
    point = np.array(data.draw(st.lists(st.floats(0, 1), min_size=code.dimensions, max_size=code.dimensions)))
    shapes = code.decode(point, [1.0] * count)
    assert sum(shape.embed for shape in shapes if shape) <= SHAPE.embed
    for layer in range(SHAPE.layers):
        assert sum(shape.heads.get(layer, 0) for shape in shapes if shape) <= 6
        assert sum(shape.neurons.get(layer, 0) for shape in shapes if shape) <= 384
    assert shapes[0] is not None  # the central device
    for shape in (shape for shape in shapes if shape is not None):
        assert 1 <= len(shape.heads) <= 6
        assert shape.heads.keys() == shape.neurons.keys()
        assert min(shape.heads.values()) >= 1
        assert min(shape.neurons.values()) >= 1


def test_the_least_influential_layers_go_first() -> None:
    code = encoding(1)
    point = np.array([0.9, 0.9, 0.9, 0.5, 0.5, 0.5])
    (shape,) = code.decode(point, [1.0])
    kept = set(shape.heads)
    assert kept < set(range(6))
    assert min(INFLUENCE[layer] for layer in kept) > max(INFLUENCE[layer] for layer in set(range(6)) - kept)


def test_starts_decode_to_their_shares() -> None:
    code = encoding(3)
    shapes = code.decode(code.point_of_shares([1 / 3] * 3), [1.0] * 3)
    assert [shape.embed for shape in shapes] == [32, 32, 32]
    assert all(set(shape.heads.values()) == {2} and set(shape.neurons.values()) == {128} for shape in shapes)


def test_with_overlap_every_member_may_be_the_whole_teacher() -> None:
    code = encoding(3, overlap=True)
    for share, embed, heads, neurons in ((1.0, 96, 6, 384), (2 / 3, 64, 4, 256)):
        for shape in code.decode(code.point_of_shares([share] * 3), [1.0] * 3):
            assert shape == MemberShape(embed, dict.fromkeys(range(6), heads), dict.fromkeys(range(6), neurons))


def test_a_tilt_moves_units_over_the_depth() -> None:
    code = encoding(1)
    point = code.point_of_shares([0.5])
    point[5] = 1.0
    neurons = list(code.decode(point, [1.0])[0].neurons.values())
    assert neurons == sorted(neurons)
    assert neurons[-1] > 2 * neurons[0]


def by_hand(code: Encoding, point: np.ndarray, shrink: Sequence[float]) -> list[MemberShape | None]:
    """One point after the other, device by device and layer by layer, as the encoding is told in words."""
    count, shape = len(code.devices), code.shape
    rows = point.reshape(6, count).tolist()
    steps = [alignment_of(device, shape) for device in code.devices]

    def shares(values: list[float]) -> list[float]:
        left, found = 1.0, []
        for n, value in enumerate(values):
            found.append(value if code.overlap else left * (1 - (1 - value) ** (1 / (count - n))))
            left -= found[-1]
        return [share * factor for share, factor in zip(found, shrink, strict=True)]

    ranking = sorted(range(shape.layers), key=lambda layer: (-code.influence[layer], layer))
    layers: list[set[int]] = []
    for value, device in zip(rows[3], code.devices, strict=True):
        least = 0 if code.drop and not device.central else 1
        kept = set(ranking[: least + round(value * (shape.layers - least))])
        for own in shape.stage_layers if kept else ():
            kept |= set([layer for layer in ranking if layer in own][: 1 if len(shape.depths) == 1 else 2])
        layers.append(kept)
    embed, heads, neurons = (shares(row) for row in rows[:3])
    taking = [n for n in range(count) if layers[n]]
    found = parts_by_hand(shape.embed, [embed[n] for n in taking], [steps[n] for n in taking], overlap=code.overlap)
    units: list[list[dict[int, int]]] = []
    for parts, tilts, totals, step in (
        (heads, rows[4], shape.heads, [1] * count),
        (neurons, rows[5], shape.neurons, steps),
    ):
        counts: list[dict[int, int]] = [{} for _ in range(count)]
        for layer, total in enumerate(totals):
            keeping = [n for n in taking if layer in layers[n]]
            depth = layer / max(shape.layers - 1, 1) - 0.5
            wanted = [parts[n] * math.exp((2 * tilts[n] - 1) * 1.5 * depth) for n in keeping]
            over = 1.0 if code.overlap else max(1.0, functools.reduce(operator.add, wanted, 0.0))
            own = [min(each / over, 1.0) for each in wanted]
            dealt = parts_by_hand(total, own, [step[n] for n in keeping], overlap=code.overlap)
            for n, units_of in zip(keeping, dealt, strict=True):
                counts[n][layer] = units_of
        units.append(counts)
    widths = dict(zip(taking, found, strict=True))
    return [MemberShape(widths[n], units[0][n], units[1][n]) if n in widths else None for n in range(count)]


def parts_by_hand(total: int, shares: Sequence[float], steps: Sequence[int], *, overlap: bool) -> list[int]:
    """Largest remainder over multiples of the steps, one at least."""
    exact = [total * share / step for share, step in zip(shares, steps, strict=True)]
    parts = [max(1, int(number + 1e-9)) for number in exact]
    for n in sorted(range(len(parts)), key=lambda n: (parts[n] - exact[n], n)):
        size = sum(part * step for part, step in zip(parts, steps, strict=True)) + steps[n]
        if exact[n] - parts[n] >= 0.5 - 1e-9 and (size <= total or overlap) and (parts[n] + 1) * steps[n] <= total:
            parts[n] += 1
    while not overlap and sum(part * step for part, step in zip(parts, steps, strict=True)) > total:
        parts[max(range(len(parts)), key=lambda n: (parts[n] > 1, parts[n] - exact[n]))] -= 1
    return [part * step for part, step in zip(parts, steps, strict=True)]


STAGED = TeacherShape(6, 32, (2, 2, 4, 4, 8, 8), (64, 64, 128, 128, 256, 256), (2, 2, 2), (32, 64, 128))


@pytest.mark.parametrize("shape", [SHAPE, STAGED], ids=["one stage", "three stages"])
@pytest.mark.parametrize(("overlap", "drop"), [(False, True), (True, True), (False, False)])
@settings(max_examples=60)
@given(data=st.data())
def test_many_points_decode_to_what_each_does_by_hand(
    shape: TeacherShape, overlap: bool, drop: bool, data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, 2 if shape is STAGED else 4))
    code = Encoding(shape, devices(count), INFLUENCE, overlap, drop)
    # Round numbers among them, so that remainders are equal now and then.
    numbers = st.one_of(st.floats(0, 1), st.integers(0, 12).map(lambda n: n / 12))
    rows = data.draw(st.lists(st.lists(numbers, min_size=7 * count, max_size=7 * count), min_size=1, max_size=5))
    points, shrink = np.array(rows)[:, count:], 0.02 + 0.98 * np.array(rows)[:, :count]
    found = shapes_of(code.decode_many(points, shrink, np.full((len(rows), count), shape.layers)))
    assert [list(each) for each in found] == [by_hand(code, *row) for row in zip(points, shrink.tolist(), strict=True)]
    assert found[0] == code.decode(points[0], shrink[0].tolist())


def test_more_devices_than_units_are_refused() -> None:
    few = TeacherShape(2, 96, (2, 2), (384, 384))
    code = Encoding(few, devices(3), (0.5, 0.1), False, drop=False)
    with pytest.raises(CoformerError) as caught:
        code.decode(code.point_of_shares([1 / 3] * 3), [1.0] * 3)
    assert caught.value.what == "C3: 3 devices need at least 3 units, the teacher has 2"
    assert caught.value.mend == "use fewer devices, or set policy.overlap = true"
