"""Tests of coformer_passes.decompose_gelu."""

from __future__ import annotations

import numpy as np
import pytest

from coformer_passes.decompose_gelu import decompose_gelu

X = np.linspace(-8.0, 8.0, 24, dtype=np.float32).reshape(1, 24)
ERF = "g (float[1,24] x) => (float[1,24] y) { y = Gelu(x) }"
TANH = 'g (float[1,24] x) => (float[1,24] y) { y = Gelu<approximate = "tanh">(x) }'


@pytest.mark.parametrize(
    ("form", "text", "operators"),
    [
        ("erf", ERF, ["Div", "Erf", "Add", "Mul", "Mul"]),
        ("tanh", TANH, ["Mul", "Mul", "Add", "Mul", "Tanh", "Add", "Mul", "Mul"]),
    ],
)
def test_gelu_is_written_out(parse, outputs, op_types, nano, golden_text, form, text, operators) -> None:
    model = parse(text)
    before = outputs(model, x=X)[0]
    assert decompose_gelu(model, nano)
    assert op_types(model) == operators
    assert model.graph.outputs[0].name == "y"
    np.testing.assert_allclose(outputs(model, x=X)[0], before, rtol=1e-5, atol=1e-6)
    golden_text(model, f"decompose_gelu.{form}")


def test_the_tanh_form_stays_finite_in_fp16() -> None:
    x = np.float16(60.0)
    slope = np.float16(np.sqrt(2 / np.pi))
    with np.errstate(over="ignore"):
        assert np.isinf(x * x * x)
    assert np.isfinite(x * (x * x * np.float16(0.044715) * slope + slope))


def test_an_engine_that_has_the_operator_keeps_it(parse, op_types, cpu, orin) -> None:
    for target in (cpu, orin):
        model = parse(ERF)
        assert not decompose_gelu(model, target)
        assert op_types(model) == ["Gelu"]


def test_a_graph_without_gelu_is_left(parse, nano) -> None:
    assert not decompose_gelu(parse("g (float[1,4] x) => (float[1,4] y) { y = Relu(x) }"), nano)
