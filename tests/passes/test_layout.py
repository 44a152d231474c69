"""Tests of coformer_passes.layout: the same as ONNX Runtime does."""

from __future__ import annotations

import numpy as np
import pytest

from coformer_passes.layout import LAYOUT_OPS, outputs_of_layout

X = np.arange(24, dtype=np.float32).reshape(1, 4, 6)
CASES = {
    "Flatten": ("float[4,6] y", "y = Flatten<axis = 2>(x)", {}),
    "Gather": ("float[1,2,6] y", "y = Gather<axis = 1>(x, i)", {"i": np.array([-1, 0])}),
    "Identity": ("float[1,4,6] y", "y = Identity(x)", {}),
    "Reshape": ("float[2,2,6] y", "y = Reshape(x, s)", {"s": np.array([2, -1, 6])}),
    "Slice": (
        "float[1,2,3] y",
        "y = Slice(x, s, e, a, t)",
        {"s": np.array([3, 1]), "e": np.array([1, 2**62]), "a": np.array([1, -1]), "t": np.array([-1, 2])},
    ),
    "Slice to the front": (
        "float[1,4,6] y",
        "y = Slice(x, s, e, a, t)",
        {"s": np.array([3]), "e": np.array([-(2**62)]), "a": np.array([1]), "t": np.array([-1])},
    ),
    "Slice of leading axes": ("float[1,2,6] y", "y = Slice(x, s, e)", {"s": np.array([0, 1]), "e": np.array([1, 3])}),
    "Split": ("float[1,1,6] y, float[1,3,6] z", "y, z = Split<axis = -2>(x, s)", {"s": np.array([1, 3])}),
    "Squeeze": ("float[4,6] y", "y = Squeeze(x, a)", {"a": np.array([0])}),
    "Transpose": ("float[6,1,4] y", "y = Transpose<perm = [2,0,1]>(x)", {}),
    "Transpose of all": ("float[6,4,1] y", "y = Transpose(x)", {}),
    "Unsqueeze": ("float[1,4,1,6] y", "y = Unsqueeze(x, a)", {"a": np.array([2])}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_same_as_onnx_runtime(parse, outputs, name) -> None:
    declared, line, arrays = CASES[name]
    model = parse(f"g (float[1,4,6] x) => ({declared}) {{ {line} }}", arrays)
    found = outputs_of_layout(model.graph.node(0), X)
    assert found is not None
    for mine, expected in zip(found, outputs(model, x=X), strict=True):
        np.testing.assert_array_equal(mine, expected)


def test_every_layout_operator_is_tested() -> None:
    assert {name.split(" ")[0] for name in CASES} == LAYOUT_OPS


def test_a_computed_bound_is_not_known(parse) -> None:
    model = parse("g (float[1,4,6] x, int64[1] s, int64[1] e) => (float[?,?,?] y) { y = Slice(x, s, e) }")
    assert outputs_of_layout(model.graph.node(0), X) is None
    model = parse("g (float[1,4,6] x, int64[1] i) => (float[?,?,?] y) { y = Gather<axis = 1>(x, i) }")
    assert outputs_of_layout(model.graph.node(0), X) is None
