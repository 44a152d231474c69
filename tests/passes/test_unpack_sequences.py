"""Tests of coformer_passes.unpack_sequences."""

from __future__ import annotations

import numpy as np
import pytest

from coformer_passes.unpack_sequences import unpack_sequences

X = np.arange(28, dtype=np.float32).reshape(4, 7)
PICKED = """g (float[4,7] x) => (float[4,M] y, float[4,N] z) {
    parts = SplitToSequence<axis = AXIS>(x, sizes) a = SequenceAt(parts, first) y = Relu(a) z = SequenceAt(parts, last)
}"""


@pytest.mark.parametrize("axis", ["1", "-1"])
@pytest.mark.parametrize(("sizes", "first", "last"), [(3, 3, 1), ([2, 1, 4], 2, 4)])
def test_a_sequence_becomes_a_split(parse, outputs, op_types, nano, axis, sizes, first, last) -> None:
    text = PICKED.replace("AXIS", axis).replace("M", str(first)).replace("N", str(last))
    arrays = {"sizes": np.array(sizes), "first": np.array(0), "last": np.array(-1)}
    model = parse(text, arrays)
    before = outputs(model, x=X)
    assert unpack_sequences(model, nano)
    assert op_types(model) == ["Split", "Relu", "Identity"]
    assert [value.name for value in model.graph.outputs] == ["y", "z"]
    for found, expected in zip(outputs(model, x=X), before, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert not unpack_sequences(model, nano)


def test_a_position_that_is_computed_stays(parse, nano) -> None:
    text = """g (float[4,6] x, int64 i) => (float[4,3] y) {
        parts = SplitToSequence<axis = 1>(x, three) y = SequenceAt(parts, i)
    }"""
    assert not unpack_sequences(parse(text, {"three": np.array(3)}), nano)


def test_another_reader_of_the_sequence_stays(parse, nano) -> None:
    text = """g (float[4,6] x) => (float[4,6] y) {
        parts = SplitToSequence<axis = 1>(x, three) y = ConcatFromSequence<axis = 1>(parts)
    }"""
    assert not unpack_sequences(parse(text, {"three": np.array(3)}), nano)
