"""Tests of coformer_passes.numerics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from coformer_passes.graph_files import save_graph
from coformer_passes.numerics import (
    BIG_TENSOR_ELEMENTS,
    cases_of,
    check_structure,
    computes_in_halves,
    outputs_of,
    proto_without_weights,
    relative_difference,
    with_rounding,
)
from coformer_passes.to_float16 import to_float16
from coformer_runtime.errors import CheckFailed, CoformerError
from coformer_targets import load_target, with_precision

RELU = "g (float[1,4] x) => (float[1,4] y) { y = Relu(x) }"


def test_the_proto_holds_no_big_weight_and_computes_the_same(transformer, outputs) -> None:
    model = transformer(embed=48, mlp=96)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16), dtype=np.uint8)
    names = list(model.graph.initializers)
    proto, weights = proto_without_weights(model)
    assert list(model.graph.initializers) == names and len(model.graph.inputs) == 1
    assert weights and all(array.size > 1024 for array in weights.values())
    assert weights["layers.0.mlp.up.weight"] is not None
    check_structure(proto, "test")
    cases = cases_of({"pixels": pixels}, model)
    found = outputs_of(proto, weights, cases, "test")
    for case, output in zip(cases, found, strict=True):
        np.testing.assert_allclose(output["features"], outputs(model, **case)[0], rtol=1e-6, atol=1e-6)


def test_weights_are_not_copied(transformer) -> None:
    model = transformer(embed=48, mlp=96)
    _, weights = proto_without_weights(model)
    for name, array in weights.items():
        assert np.shares_memory(array, model.graph.initializers[name].const_value.numpy())


@pytest.mark.parametrize("halves", [False, True])
def test_weights_in_a_file_beside_the_graph_are_found_from_any_folder(
    transformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, halves: bool
) -> None:
    """Also the small ones, which stay in the proto: norms of 72 numbers are beyond what ONNX keeps in the graph."""
    model = transformer(embed=72, mlp=96)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 16, 16), dtype=np.uint8)
    if halves:
        to_float16(model, with_precision(load_target("jetson-orin-nano"), "float16"))
    save_graph(model, tmp_path / "member.onnx", inline_bytes=0)
    read = ir.load(tmp_path / "member.onnx")
    norm = read.graph.initializers["layers.0.norm1.gain"]
    assert isinstance(norm.const_value, ir.ExternalTensor) and norm.const_value.size <= BIG_TENSOR_ELEMENTS
    monkeypatch.chdir("/")
    given = [with_rounding(each) if halves else each for each in (model, read)]
    expected, found = (
        outputs_of(*proto_without_weights(each), cases_of({"pixels": pixels}, each), "test")[0] for each in given
    )
    np.testing.assert_array_equal(found["features"], expected["features"])
    assert isinstance(norm.const_value, ir.ExternalTensor)


def test_initializers_of_subgraphs_are_read_from_files_too(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["": 20]> g (bool c, float[1,100] x) => (float[1,100] y) {
        y = If (c) <then_branch = t () => (float[1,100] a) <float[100] w> { a = Add(x, w) },
                    else_branch = e () => (float[1,100] b) { b = Relu(x) }> }"""
    proto = onnx.parser.parse_model(text)
    branch = next(each.g for each in proto.graph.node[0].attribute if each.name == "then_branch")
    del branch.initializer[:]
    branch.initializer.append(onnx.numpy_helper.from_array(np.arange(100, dtype=np.float32), "w"))
    ir.save(ir.from_proto(proto), tmp_path / "branches.onnx", external_data="branches.onnx.data")
    assert (tmp_path / "branches.onnx.data").stat().st_size >= 400
    feeds = {"c": np.array(True), "x": np.ones((1, 100), np.float32)}
    found = outputs_of(*proto_without_weights(ir.load(tmp_path / "branches.onnx")), [feeds], "test")
    np.testing.assert_array_equal(found[0]["y"][0], np.arange(1, 101))


def test_the_checker_names_the_place() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20]> g (float[4] x) => (float[4] y) { y = No(x) }'
    )
    with pytest.raises(CheckFailed, match=r"^here: onnx.checker refuses the graph: .*No.*; report it as a bug"):
        check_structure(proto, "here")


def test_a_graph_that_fails_names_the_place(parse) -> None:
    proto, weights = proto_without_weights(parse("g (float[1,4] x) => (float[1,4] y) { y = Relu(x) }"))
    with pytest.raises(CheckFailed, match=r"^here: ONNX Runtime .* fails: "):
        outputs_of(proto, weights, [{"x": np.zeros((1, 5), np.float32)}], "here")


def test_cases_are_split_and_cast(parse) -> None:
    cases = cases_of({"x": np.arange(8, dtype=np.uint8).reshape(2, 4)}, parse(RELU))
    assert [case["x"].tolist() for case in cases] == [[[0, 1, 2, 3]], [[4, 5, 6, 7]]]
    assert all(case["x"].dtype == np.float32 for case in cases)


@pytest.mark.parametrize(
    ("golden", "message"),
    [
        (
            {},
            r"golden inputs: golden inputs \[\] are not the graph's \['x'\]; give one array per graph input",
        ),
        ({"z": np.zeros((1, 4))}, r"golden inputs \['z'\] are not the graph's \['x'\]"),
        ({"x": np.zeros((0, 4))}, "golden inputs: there are none; give at least one case"),
        ({"x": np.zeros((2, 5))}, r"'x' has shape \(2, 5\), the graph wants \[1,4\] for each of 2 cases"),
        ({"x": np.zeros((2, 4, 1))}, r"'x' has shape \(2, 4, 1\)"),
    ],
)
def test_golden_inputs_that_do_not_fit(parse, golden, message) -> None:
    with pytest.raises(CoformerError, match=message):
        cases_of(golden, parse(RELU))


def test_inputs_with_different_numbers_of_cases(parse) -> None:
    model = parse("g (float[1,4] a, float[1,4] b) => (float[1,4] y) { y = Add(a, b) }")
    with pytest.raises(CoformerError, match=r"'b' has shape \(3, 4\), the graph wants \[1,4\] for each of 2 cases"):
        cases_of({"a": np.zeros((2, 4)), "b": np.zeros((3, 4))}, model)


def test_the_difference_is_relative_to_the_magnitude_of_all_cases() -> None:
    before = [{"y": np.array([100.0, 0.0])}, {"y": np.array([1.0, 1.0])}]
    after = [{"y": np.array([100.0, 0.0])}, {"y": np.array([1.0, 1.5])}]
    assert relative_difference(before, after) == (pytest.approx(0.005), "y")
    assert relative_difference(before, before)[0] == 0.0


def test_what_is_not_comparable_is_infinitely_different() -> None:
    one = [{"y": np.array([1.0, 2.0])}]
    assert relative_difference(one, [{"z": np.array([1.0, 2.0])}]) == (float("inf"), "y")
    assert relative_difference(one, [{"y": np.array([[1.0, 2.0]])}])[0] == float("inf")
    assert relative_difference(one, [{"y": np.array([1.0, np.nan])}])[0] == float("inf")
    assert relative_difference(one, [{"y": np.array([1.0, np.inf])}])[0] == float("inf")
    nan = [{"y": np.array([np.nan, 2.0])}]
    assert relative_difference(nan, nan)[0] == 0.0
    assert relative_difference(nan, one)[0] == float("inf")


def test_halves_are_rounded_after_every_node(parse, outputs) -> None:
    text = "g (float16[2] x) => (float[2] y) { square = Mul(x, x) back = Mul(square, small) y = Cast<to = 1>(back) }"
    model = parse(text, {"small": np.array([2.0**-8], np.float16)})
    x = np.array([1000, 10], np.float16)
    assert computes_in_halves(model)
    with np.errstate(over="ignore"):
        expected = (x * x * np.float16(2.0**-8)).astype(np.float32)
    np.testing.assert_array_equal(outputs(with_rounding(model), x=x)[0], expected)
    assert np.isinf(expected[0])
    assert not computes_in_halves(parse("g (float[2] x) => (float[2] y) { y = Relu(x) }"))
