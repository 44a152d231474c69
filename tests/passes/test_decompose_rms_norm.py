"""Tests of coformer_passes.decompose_rms_norm."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from coformer_passes.decompose_rms_norm import decompose_rms_norm
from coformer_runtime.errors import CoformerError
from coformer_targets import load_target

GRAPH = (
    "g (float[1,5,8] x) => (float[1,5,8] y) { y = RMSNormalization<axis = AXIS, epsilon = 0.000001>(x, gain) }"
).replace("AXIS", "-1")
RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((1, 5, 8)).astype(np.float32)
GAIN = RANDOM.uniform(0.5, 2.0, 8).astype(np.float32)
BARE = ["Mul", "Mul", "ReduceSum", "Add", "Sqrt", "Div"]


def test_the_norm_is_written_out(parse, outputs, op_types, nano) -> None:
    model = parse(GRAPH, {"gain": GAIN}, opset=23)
    expected = X / np.sqrt((X.astype(np.float64) ** 2).mean(-1, keepdims=True) + 1e-6) * GAIN
    assert decompose_rms_norm(model, nano)
    assert op_types(model) == [*BARE, "Mul"]
    np.testing.assert_allclose(outputs(model, x=X)[0], expected, rtol=1e-5, atol=1e-6)
    assert not decompose_rms_norm(model, nano)


def test_a_gain_of_ones_writes_nothing(parse, op_types, nano) -> None:
    model = parse(GRAPH, {"gain": np.ones(8, np.float32)}, opset=23)
    assert decompose_rms_norm(model, nano)
    assert op_types(model) == BARE


def test_a_norm_over_two_axes(parse, outputs, nano) -> None:
    model = parse(GRAPH.replace("axis = -1", "axis = 1"), {"gain": np.ones((5, 8), np.float32)}, opset=23)
    assert decompose_rms_norm(model, nano)
    expected = X / np.sqrt((X.astype(np.float64) ** 2).mean((1, 2), keepdims=True) + 1e-6)
    np.testing.assert_allclose(outputs(model, x=X)[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "needed"), [("jetson-thor", True), ("jetson-thor@jp7.2", False), ("rtx-ada", False)])
def test_which_targets_need_it(parse, name, needed) -> None:
    model = parse(GRAPH, {"gain": GAIN}, opset=23)
    assert decompose_rms_norm(model, load_target(name)) is needed


def test_a_dynamic_width_is_refused(parse, nano) -> None:
    model = parse(GRAPH.replace("1,5,8", "1,5,n"), {"gain": GAIN}, opset=23)
    with pytest.raises(CoformerError, match="decompose_rms_norm: node 'y' has an input of unknown or dynamic shape"):
        decompose_rms_norm(model, dataclasses.replace(nano))
