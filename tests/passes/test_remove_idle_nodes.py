"""Tests of coformer_passes.remove_idle_nodes."""

from __future__ import annotations

import numpy as np
import pytest

from coformer_passes.remove_idle_nodes import remove_idle_nodes

X = np.arange(24, dtype=np.float32).reshape(1, 4, 6) - 12
ARRAYS = {
    "none": np.zeros(6, np.int64),
    "some": np.array([0, 0, 1, 0, 0, 0]),
    "shape": np.array([1, 4, 6]),
    "one": np.array([1]),
    "zero": np.array([0]),
    "six": np.array([6]),
    "back": np.array([-1]),
    "last": np.array([-1]),
    "front": np.array([-7]),
    "axis": np.array([2]),
    "ratio": np.array(0.5, np.float32),
    "training": np.array(True),
}


@pytest.mark.parametrize(
    "call",
    [
        "Identity(x)",
        "Dropout(x)",
        "Dropout(x, ratio)",
        "Cast<to = 1>(x)",
        "Pad(x, none)",
        "Transpose<perm = [0, 1, 2]>(x)",
        "Concat<axis = 0>(x)",
        "Reshape(x, shape)",
        "Expand(x, shape)",
        "Slice(x, zero, six, axis)",
    ],
)
def test_what_changes_nothing_goes(parse, outputs, op_types, nano, call) -> None:
    model = parse(f"g (float[1,4,6] x) => (float[1,4,6] y) {{ a = {call} y = Relu(a) }}", ARRAYS)
    before = outputs(model, x=X)[0]
    assert remove_idle_nodes(model, nano)
    assert op_types(model) == ["Relu"]
    np.testing.assert_array_equal(outputs(model, x=X)[0], before)
    assert not remove_idle_nodes(model, nano)


@pytest.mark.parametrize(
    "text",
    [
        "g (float[1,4,6] x) => (float[1,4,6] y) { a = Dropout(x, ratio, training) y = Relu(a) }",
        "g (float[1,4,6] x) => (float[1,4,6] y, bool[1,4,6] m) { a, m = Dropout(x) y = Relu(a) }",
        "g (float[1,4,6] x) => (double[1,4,6] y) { a = Cast<to = 11>(x) y = Exp(a) }",
        "g (float[1,4,6] x) => (float[1,4,7] y) { a = Pad(x, some) y = Relu(a) }",
        "g (float[1,4,6] x) => (float[6,4,1] y) { a = Transpose(x) y = Relu(a) }",
        "g (float[1,4,6] x) => (float[1,4,6] y) { a = Slice(x, last, front, axis, back) y = Relu(a) }",
        "g (float[1,4,6] x) => (float[1,4,6] y) { y = Identity(x) }",
    ],
)
def test_what_changes_something_stays(parse, nano, text) -> None:
    assert not remove_idle_nodes(parse(text, ARRAYS), nano)


def test_the_name_of_an_output_stays(parse, outputs, op_types, nano) -> None:
    model = parse("g (float[1,4,6] x) => (float[1,4,6] y) { a = Relu(x) y = Identity(a) }")
    assert remove_idle_nodes(model, nano)
    assert (op_types(model), model.graph.outputs[0].name) == (["Relu"], "y")
    np.testing.assert_array_equal(outputs(model, x=X)[0], np.maximum(X, 0))
