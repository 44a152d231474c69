"""Tests of coformer_passes.integer_ranges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coformer_passes.integer_ranges import Range, integer_ranges

NUMBERS = np.array([-3, 0, 7])


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("Cast<to = 7>(b)", Range(0, 255)),
        ("ArgMax<axis = 1, keepdims = 0>(x)", Range(0, 7)),
        ("Add(i, c)", Range(-3, 7 + 255)),
        ("Sub(c, i)", Range(-3 - 255, 7)),
        ("Mul(i, c)", Range(-3 * 255, 7 * 255)),
        ("Div(i, five)", Range(0, 51)),
        ("Mod(i, five)", Range(-4, 4)),
        ("Neg(i)", Range(-255, 0)),
        ("Abs(c)", Range(0, 7)),
        ("Max(c, i)", Range(-3, 255)),
        ("Where(t, c, i)", Range(-3, 255)),
        ("CumSum(i, axis)", Range(0, 3 * 255)),
        ("ReduceSum<keepdims = 1>(i)", Range(0, 3 * 255)),
        ("Gather(i, five)", Range(0, 255)),
        ("Add(wild, c)", None),
        ("Div(i, c)", None),
    ],
)
def test_each_rule(parse, call, expected) -> None:
    five = np.array([0, 1, 2] if "Gather" in call else [5, 5, 5])
    model = parse(
        "g (float[3,8] x, uint8[3] b, bool[3] t, int64[3] wild) => (int64[3] i, int64[N] y) "
        f"{{ i = Cast<to = 7>(b) y = {call} }}".replace("[N]", "[1]" if "Reduce" in call else "[3]"),
        {
            "c": NUMBERS,
            "five": five,
            "axis": np.array(0),
        },
    )
    assert integer_ranges(model.graph).get(model.graph.outputs[1]) == expected


@given(
    st.lists(st.integers(-50, 50), min_size=1, max_size=5),
    st.lists(st.integers(-50, 50), min_size=1, max_size=1),
    st.sampled_from(["Add", "Sub", "Mul", "Max", "Min"]),
)
def test_no_number_is_outside(parse, outputs, left, right, op_type) -> None:
    # uint8 inputs 0 and 255 are the extremes; the graph adds constants to them, so that the range is computed
    text = f"g (uint8[2,1] b) => (int64[2,N] y) {{ i = Cast<to = 7>(b) a = Mul(i, l) y = {op_type}(a, r) }}"
    model = parse(text.replace("N", str(len(left))), {"l": np.array(left), "r": np.array(right)})
    proved = integer_ranges(model.graph)[model.graph.outputs[0]]
    found = outputs(model, b=np.array([[0], [255]], np.uint8))[0]
    assert proved.least <= found.min() and found.max() <= proved.greatest
