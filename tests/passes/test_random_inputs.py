"""Tests of coformer_passes.random_inputs."""

from __future__ import annotations

import numpy as np
import pytest

from coformer_passes.random_inputs import BYTES, CAREFUL, FEW, integer_limits, random_inputs

TABLE = np.zeros((23, 4), np.float32)
PLACES = np.zeros((9, 4), np.float32)


def test_random_inputs_have_the_graphs_shapes_and_types(parse) -> None:
    text = "g (float[2,3] a, uint8[2,3] b, int64[2] c, bool[3] d, float16[1] e) => (float[2,3] y) { y = Relu(a) }"
    first, second = random_inputs(parse(text))
    assert {name: (array.shape, array.dtype.name) for name, array in first.items()} == {
        "a": ((2, 3), "float32"),
        "b": ((2, 3), "uint8"),
        "c": ((2,), "int64"),
        "d": ((3,), "bool"),
        "e": ((1,), "float16"),
    }
    assert set(first["c"].tolist()) <= set(range(8)) and (first["a"] != second["a"]).any()
    again = random_inputs(parse(text))[0]
    assert all((again[name] == first[name]).all() for name in first)


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("g (int64[1,5] i) => (float[1,5,4] y) { y = Gather(t, i) }", 23),
        ("g (int64[1,5] i) => (float[4,1,5] y) { r = Transpose(p) y = Gather<axis = 1>(r, i) }", 9),
        (
            "g (int64[1,5] i) => (float[1,5,4] y) { a = Gather(t, i) b = Gather(p, i) y = Add(a, b) }",
            9,
        ),
        (
            "g (int32[1,5] i) => (float[5,4] y) { c = Cast<to = 7>(i) f = Reshape(c, flat) "
            "low = Clip(f, zero) y = Gather(t, low) }",
            23,
        ),
        ("g (int8[1,5] i) => (float[1,5,4] y) { c = Cast<to = 7>(i) y = Gather(big, c) }", 128),
        ("g (uint8[1,5] i) => (float[1,5,4] y) { c = Cast<to = 7>(i) y = Gather(t, c) }", 23),
        ("g (int64[5] i) => (float[5] y) { k = Unsqueeze(i, last) y = GatherND(line, k) }", 11),
        ("g (int64[2,4] i) => (float[2,4] y) { y = GatherElements<axis = 0>(t, i) }", 23),
        ("g (int64[2,4] i, float[2,4] u) => (float[23,4] y) { y = ScatterElements<axis = 0>(t, i, u) }", 23),
        (
            "g (int64[1,5] i) => (float[1,5,4] y) { m = Equal(i, zero) n = Cast<to = 7>(m) c = CumSum(n, one) "
            "b = Gather(p, c) a = Gather(t, i) y = Add(a, b) }",
            23,
        ),
        ("g (int64[1,5] i) => (float[1,5,4] y) { j = Add(i, one) y = Gather(t, j) }", CAREFUL),
        (
            "g (int64[1,5] i) => (float[1,5,4] y) { f = Cast<to = 1>(i) g = Mul(f, f) j = Cast<to = 7>(g) "
            "y = Gather(t, j) }",
            CAREFUL,
        ),
        ("g (int64[1] i, float[4] x) => (float[?] y) { y = Slice(x, flat0, i) }", CAREFUL),
        ("g (int64[1] i, float[4] x) => (float[?] y) { y = Tile(x, i) }", CAREFUL),
        ("g (int64[1,5] i) => (float[1,5] y) { y = Cast<to = 1>(i) }", FEW),
        ("g (uint8[1,5] i) => (float[1,5] y) { y = Cast<to = 1>(i) }", BYTES),
        ("g (int64[1,5] i) => (float[1,5,4] y) { k = ArgMax<keepdims = 0>(i) z = Gather(t, k) y = Gather(t, i) }", 23),
    ],
)
def test_integers_reach_every_row_that_they_select_from_and_none_beyond(parse, outputs, text, limit) -> None:
    arrays = {
        "t": TABLE, "p": PLACES, "big": np.zeros((1000, 4), np.float32), "line": np.zeros(11, np.float32),
        "flat": np.array([5]), "zero": np.array(0), "one": np.array(1), "last": np.array([1]), "flat0": np.array([0]),
    }  # fmt: skip
    used = {
        name: array
        for name, array in arrays.items()
        if any(f"{before}{name}{after}" in text for before in "( " for after in ",)")
    }
    model = parse(text, used)
    assert integer_limits(model)["i"] == limit
    drawn = random_inputs(model, cases=40)
    assert {int(number) for case in drawn for number in case["i"].flat} <= set(range(limit))
    for case in drawn[:3]:
        outputs(model, **case)


def test_every_row_is_reached(parse) -> None:
    model = parse("g (int64[1,50] i) => (float[1,50,4] y) { y = Gather(t, i) }", {"t": TABLE})
    first, second = random_inputs(model)
    assert first["i"].max() > 15 and (first["i"] != second["i"]).any()
