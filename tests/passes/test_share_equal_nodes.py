"""Tests of coformer_passes.share_equal_nodes."""

from __future__ import annotations

import numpy as np

from coformer_passes.share_equal_nodes import share_equal_nodes

X = np.arange(4, dtype=np.float32).reshape(1, 4)


def test_equal_constants_and_nodes_become_one(parse, outputs, op_types, cpu) -> None:
    model = parse(
        "g (float[1,4] x) => (float[1,4] y) { a = Add(x, one) b = Add(x, uno) y = Mul(a, b) }",
        {"one": np.ones((), np.float32), "uno": np.ones((), np.float32)},
    )
    before = outputs(model, x=X)[0]
    assert share_equal_nodes(model, cpu)
    assert op_types(model) == ["Add", "Mul"] and list(model.graph.initializers) == ["one"]
    np.testing.assert_array_equal(outputs(model, x=X)[0], before)
    assert not share_equal_nodes(model, cpu)


def test_what_nothing_reads_goes(parse, op_types, cpu) -> None:
    model = parse("g (float[1,4] x) => (float[1,4] y) { unused = Neg(x) y = Relu(x) }")
    assert share_equal_nodes(model, cpu)
    assert op_types(model) == ["Relu"]


def test_different_things_stay_apart(parse, op_types, cpu) -> None:
    model = parse(
        "g (float[1,4] x) => (float[1,4] y) { a = Add(x, one) b = Add(x, two) y = Mul(a, b) }",
        {"one": np.ones((), np.float32), "two": np.full((), 2, np.float32)},
    )
    assert not share_equal_nodes(model, cpu)
    assert op_types(model) == ["Add", "Add", "Mul"]
