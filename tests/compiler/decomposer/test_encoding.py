"""Points of the search to shapes and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coformer_compiler.decomposer.policy import TeacherShape
from coformer_compiler.decomposer.search.encoding import Encoding, stick_breaking, sticks_of
from coformer_compiler.device import Device
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


def test_a_tilt_moves_units_over_the_depth() -> None:
    code = encoding(1)
    point = code.point_of_shares([0.5])
    point[5] = 1.0
    neurons = list(code.decode(point, [1.0])[0].neurons.values())
    assert neurons == sorted(neurons)
    assert neurons[-1] > 2 * neurons[0]
