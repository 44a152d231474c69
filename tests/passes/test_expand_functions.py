"""Tests of coformer_passes.expand_functions."""

from __future__ import annotations

import numpy as np
import pytest

from coformer_passes.check_operators import violations
from coformer_passes.expand_functions import expand_functions
from coformer_targets import load_target

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("call", "opset"),
    [
        ("HardSwish(x)", 20),
        ("Mish(x)", 20),
        ("Swish(x)", 24),
        ("CastLike(x, x)", 20),
        ("Shrink<lambd = 0.5, bias = 0.1>(x)", 20),
        ("MeanVarianceNormalization<axes = [0, 2, 3]>(x)", 20),
        ("GroupNormalization<num_groups = 2>(x, four, four)", 21),
    ],
)
def test_an_operator_becomes_its_body(parse, outputs, nano, call, opset) -> None:
    text = f"g (float[1,4,4,4] x) => (float[1,4,4,4] y) {{ y = {call} }}"
    model = parse(text, {"four": RANDOM.uniform(1, 2, 4).astype(np.float32)}, opset=opset)
    x = RANDOM.standard_normal((1, 4, 4, 4)).astype(np.float32)
    before = outputs(model, x=x)[0] if opset < 24 else x / (1 + np.exp(-x))
    assert expand_functions(model, nano)
    assert violations(model, nano) == []
    np.testing.assert_allclose(outputs(model, x=x)[0], before, rtol=1e-4, atol=1e-5)
    assert not expand_functions(model, nano)


def test_attention(parse, outputs, nano) -> None:
    text = "g (float[1,2,5,8] q, float[1,2,5,8] k, float[1,2,5,8] v) => (float[1,2,5,8] y) { y = Attention(q, k, v) }"
    model = parse(text, opset=23)
    feeds = {name: RANDOM.standard_normal((1, 2, 5, 8)).astype(np.float32) for name in "qkv"}
    scores = feeds["q"] @ feeds["k"].transpose(0, 1, 3, 2) / np.sqrt(8)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    expected = weights / weights.sum(-1, keepdims=True) @ feeds["v"]
    assert expand_functions(model, nano)
    assert violations(model, nano) == []
    np.testing.assert_allclose(outputs(model, **feeds)[0], expected, rtol=1e-4, atol=1e-5)


def test_an_engine_that_has_it_keeps_it(parse) -> None:
    model = parse("g (float[4] x) => (float[4] y) { y = HardSwish(x) }")
    assert not expand_functions(model, load_target("jetson-orin-nano"))
    assert not expand_functions(model, load_target("cpu"))


def test_an_operator_without_a_body_stays(parse, op_types, nano) -> None:
    model = parse("g (float[4,4] x) => (float[4,4] y) { y = Trilu(x) }")
    assert not expand_functions(model, nano)
    assert op_types(model) == ["Trilu"]
