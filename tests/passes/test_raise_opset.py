"""Tests of coformer_passes.raise_opset."""

from __future__ import annotations

import numpy as np
import pytest

from coformer_passes.raise_opset import raise_opset
from coformer_passes.runner import legalise
from coformer_targets import load_target

TEXT = """g (float[1,3,40] x) => (float[3] y) {
    a = ReduceMean<axes = [-1], keepdims = 1>(x)  b = Squeeze<axes = [0]>(a)  p = MatMul(x, w)
    c = Squeeze<axes = [0]>(p)  d = Add(b, c)  e = Softmax<axis = 1>(d)  y = ReduceMax<axes = [-1], keepdims = 0>(e)
}"""
NEWER = """g (float[1,3,40] x) => (float[1,3] y) {
    p = MatMul(x, w)  h = HardSwish(p)  e = Softmax(h)  y = ReduceMax<axes = [-1], keepdims = 0>(e)
}"""
WEIGHT = np.random.default_rng(0).standard_normal((40, 50)).astype(np.float32)
X = np.random.default_rng(1).standard_normal((1, 3, 40)).astype(np.float32)


def test_an_old_graph_means_the_same(parse, outputs, nano) -> None:
    model = parse(NEWER, {"w": WEIGHT}, opset=14, ir_version=7)
    before = outputs(model, x=X)[0]
    assert raise_opset(model, nano)
    assert model.graph.opset_imports == {"": 18}
    assert [value.name for value in model.graph.inputs] == ["x"]
    assert model.graph.initializers["w"].const_value.shape == (40, 50)
    np.testing.assert_allclose(outputs(model, x=X)[0], before, rtol=1e-6)
    assert not raise_opset(model, nano)


@pytest.mark.parametrize("name", ["cpu", "jetson-nano", "rtx-ada"])
def test_an_old_graph_is_legalised(parse, outputs, name) -> None:
    model = parse(TEXT, {"w": WEIGHT}, opset=12, ir_version=7)
    legal = legalise(model, load_target(name), {"x": X})
    assert legal.graph.opset_imports[""] <= load_target(name).opset
    np.testing.assert_allclose(outputs(legal, x=X)[0], outputs(model, x=X)[0], rtol=1e-5)


def test_an_old_graph_that_is_legal_stays(parse, nano, cpu) -> None:
    text = "g (float[1,4] x) => (float[1,1] y) { y = ReduceMean<axes = [-1]>(x) }"
    assert not raise_opset(parse(text, opset=13), nano)
    assert not raise_opset(parse(text, opset=11), cpu)


def test_a_newer_graph_stays(parse, cpu) -> None:
    assert not raise_opset(parse("g (float[4] x) => (float[4] y) { y = Relu(x) }", opset=18), cpu)
