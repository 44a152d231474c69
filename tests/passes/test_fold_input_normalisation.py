"""Tests of coformer_passes.fold_input_normalisation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coformer_passes.fold_input_normalisation import fold_input_normalisation

PIXELS = np.random.default_rng(0).integers(0, 256, (1, 3, 8, 8), dtype=np.uint8)
KERNEL = np.random.default_rng(1).standard_normal((5, 3, 4, 4)).astype(np.float32) / 7
BIAS = np.arange(5, dtype=np.float32)
MEAN = np.array([120.0, 110.0, 100.0], np.float32).reshape(1, 3, 1, 1)
SCALE = np.array([0.01, 0.02, 0.03], np.float32).reshape(1, 3, 1, 1)
ARRAYS = {"mean": MEAN, "scale": SCALE, "w": KERNEL, "b": BIAS}
GRAPH = """g (uint8[1,3,8,8] pixels) => (float[1,5,2,2] y) {
    floats = Cast<to = 1>(pixels)
    shifted = Sub(floats, mean)
    scaled = Mul(shifted, scale)
    y = Conv<strides = [4,4]>(scaled, w, b)
}"""


def test_shift_and_scale_go_into_the_convolution(parse, outputs, op_types, cpu, golden_text) -> None:
    model = parse(GRAPH, ARRAYS)
    before = outputs(model, pixels=PIXELS)[0]
    assert fold_input_normalisation(model, cpu)
    assert op_types(model) == ["Cast", "Conv"]
    assert set(model.graph.initializers) == {"w", "b"}
    np.testing.assert_allclose(outputs(model, pixels=PIXELS)[0], before, rtol=1e-5, atol=1e-5)
    golden_text(parse(GRAPH, ARRAYS), "fold_input_normalisation.before")
    golden_text(model, "fold_input_normalisation.after")


def test_a_convolution_without_bias_gets_one(parse, outputs, op_types, cpu) -> None:
    model = parse(GRAPH.replace("(scaled, w, b)", "(scaled, w)"), {k: v for k, v in ARRAYS.items() if k != "b"})
    before = outputs(model, pixels=PIXELS)[0]
    assert fold_input_normalisation(model, cpu)
    assert op_types(model) == ["Cast", "Conv"] and len(model.graph.node(1).inputs) == 3
    np.testing.assert_allclose(outputs(model, pixels=PIXELS)[0], before, rtol=1e-5, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["Add", "Sub", "Mul", "Div"]), st.sampled_from(["one", "channel", "bare"])),
        min_size=1,
        max_size=5,
    ),
    seed=st.integers(0, 2**16),
)
def test_any_chain_of_shifts_and_scales(parse, outputs, op_types, cpu, steps, seed) -> None:
    random = np.random.default_rng(seed)
    shapes = {"one": (), "channel": (1, 3, 1, 1), "bare": (3, 1, 1)}
    arrays = {"w": KERNEL, "b": BIAS}
    lines, name = ["v0 = Cast<to = 1>(pixels)"], "v0"
    for index, (op_type, kind) in enumerate(steps, 1):
        arrays[f"c{index}"] = random.uniform(0.5, 2.0, shapes[kind]).astype(np.float32)
        lines.append(f"v{index} = {op_type}({name}, c{index})")
        name = f"v{index}"
    text = "g (uint8[1,3,8,8] pixels) => (float[1,5,2,2] y) {\n" + "\n".join(lines)
    model = parse(f"{text}\ny = Conv<strides = [4,4]>({name}, w, b)\n}}", arrays)
    before = outputs(model, pixels=PIXELS)[0]
    assert fold_input_normalisation(model, cpu)
    assert op_types(model) == ["Cast", "Conv"]
    after = outputs(model, pixels=PIXELS)[0]
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5 * float(np.abs(before).max()))


def test_a_padded_convolution_takes_a_scale_but_no_shift(parse, outputs, op_types, cpu) -> None:
    padded = GRAPH.replace("strides = [4,4]", "strides = [4,4], pads = [2,2,2,2]").replace("[1,5,2,2]", "[1,5,3,3]")
    model = parse(padded, ARRAYS)
    assert not fold_input_normalisation(model, cpu)
    assert op_types(model) == ["Cast", "Sub", "Mul", "Conv"]

    model = parse(padded.replace("Sub(floats, mean)", "Mul(floats, mean)"), ARRAYS)
    before = outputs(model, pixels=PIXELS)[0]
    assert fold_input_normalisation(model, cpu)
    np.testing.assert_allclose(outputs(model, pixels=PIXELS)[0], before, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("scaled = Mul(shifted, scale)", "scaled = Relu(shifted)"),
        ("scaled = Mul(shifted, scale)", "scaled = Mul(shifted, shifted)"),
        ("y = Conv<strides = [4,4]>(scaled, w, b)", "y = Conv<strides = [4,4]>(floats, w, b)"),
    ],
)
def test_no_match(parse, op_types, cpu, old, new) -> None:
    model = parse(GRAPH.replace(old, new), ARRAYS)
    before = op_types(model)
    assert not fold_input_normalisation(model, cpu)
    assert op_types(model) == before


def test_a_constant_per_pixel_is_left(parse, op_types, cpu) -> None:
    model = parse(GRAPH, {**ARRAYS, "scale": np.ones((1, 3, 8, 8), np.float32)})
    assert not fold_input_normalisation(model, cpu)
    assert op_types(model) == ["Cast", "Sub", "Mul", "Conv"]


def test_a_division_by_zero_is_left(parse, op_types, cpu) -> None:
    model = parse(GRAPH.replace("Mul(shifted, scale)", "Div(shifted, scale)"), {**ARRAYS, "scale": 0 * SCALE})
    assert not fold_input_normalisation(model, cpu)
    assert op_types(model) == ["Cast", "Sub", "Div", "Conv"]


def test_a_value_that_others_read_is_left(parse, op_types, cpu) -> None:
    text = GRAPH.replace("(float[1,5,2,2] y)", "(float[1,5,2,2] y, float[1,3,8,8] z)").replace(
        "y = Conv", "z = Relu(scaled)\n    y = Conv"
    )
    model = parse(text, ARRAYS)
    assert not fold_input_normalisation(model, cpu)
    assert "Mul" in op_types(model)


def test_grouped_convolutions_are_left(parse, cpu) -> None:
    arrays = {**ARRAYS, "w": KERNEL[:3, :1], "b": BIAS[:3]}
    text = GRAPH.replace("strides = [4,4]", "strides = [4,4], group = 3").replace("[1,5,2,2]", "[1,3,2,2]")
    assert not fold_input_normalisation(parse(text, arrays), cpu)
