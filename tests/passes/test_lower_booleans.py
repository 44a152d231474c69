"""Tests of coformer_passes.lower_booleans."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from coformer_passes.check_operators import violations
from coformer_passes.lower_booleans import lower_booleans
from coformer_targets import load_target

CASES = np.array(list(itertools.product([False, True], repeat=3)))
C, X, Y = (np.ascontiguousarray(CASES[:, column]) for column in range(3))
HEAD = "g (bool[8] c, bool[8] x, bool[8] y) => (bool[N] z)"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("{ z = Where(c, x, y) }", np.where(C, X, Y)),
        ("{ a = Xor(x, y) z = And(a, c) }", (X ^ Y) & C),
        ("{ a = Equal(x, y) z = And(a, c) }", (X == Y) & C),
        ("{ a = Or(x, y) b = And(a, c) z = Gather(b, i) }", ((X | Y) & C)[[3, 7, 0]]),
        ("{ a = Or(x, y) b = And(a, c) z = GatherElements(b, i) }", ((X | Y) & C)[[3, 7, 0]]),
    ],
)
def test_logic_means_the_same(parse, outputs, nano, body, expected) -> None:
    model = parse(HEAD.replace("N", str(len(expected))) + body, {"i": np.array([3, 7, 0])})
    assert violations(model, nano)
    assert lower_booleans(model, nano)
    assert violations(model, nano) == []
    np.testing.assert_array_equal(outputs(model, c=C, x=X, y=Y)[0], expected)
    assert [value.name for value in model.graph.outputs] == ["z"]
    assert not lower_booleans(model, nano)


def test_other_types_stay(parse, nano) -> None:
    text = "g (bool[8] c, float[8] x) => (float[8] y, bool[8] e) { y = Where(c, x, x) e = Equal(x, y) }"
    assert not lower_booleans(parse(text), nano)


@pytest.mark.parametrize(("name", "needed"), [("jetson-xavier-nx", False), ("cpu", True), ("jetson-tx2", True)])
def test_which_targets_need_it(parse, name, needed) -> None:
    model = parse("g (bool[8] c, bool[8] x) => (bool[8] z) { z = Where(c, x, x) }")
    assert lower_booleans(model, load_target(name)) is needed
