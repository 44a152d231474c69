"""Tests of coformer_passes.runner."""

from __future__ import annotations

import logging

import numpy as np
import onnx_ir as ir
import pytest

from coformer_passes import runner
from coformer_passes.rewriting import set_constant
from coformer_passes.runner import PassRecord, legalise
from coformer_runtime.errors import CheckFailed

TEXT = "g (float[1,4] x) => (float[1,4] y) { h = Mul(x, c) y = Relu(h) }"
ARRAYS = {"c": np.full(4, 2.0, np.float32)}
GOLDEN = {"x": np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)}


def keeps_its_word(model: ir.Model, target) -> bool:
    node = model.graph.node(0)
    left, right = node.inputs
    node.replace_input_with(0, right)
    node.replace_input_with(1, left)
    return True


def does_nothing(model: ir.Model, target) -> bool:
    return False


def hides_a_change(model: ir.Model, target) -> bool:
    keeps_its_word(model, target)
    return False


def boasts(model: ir.Model, target) -> bool:
    return True


def breaks_the_structure(model: ir.Model, target) -> bool:
    model.graph.node(1).op_type = "NoSuchOperator"
    return True


def breaks_the_numbers(model: ir.Model, target) -> bool:
    set_constant(model.graph.node(0), 1, np.full(4, 2.001, np.float32))
    return True


def breaks_them_a_little(model: ir.Model, target) -> bool:
    values = model.graph.initializers["c"].const_value.numpy()
    set_constant(model.graph.node(0), 1, (values * np.float32(1 + 4e-5)).astype(np.float32))
    return True


def makes_a_nan(model: ir.Model, target) -> bool:
    set_constant(model.graph.node(0), 1, np.array([2, 2, 2, np.nan], np.float32))
    return True


def test_the_given_model_is_left_and_weights_are_shared(parse, cpu) -> None:
    model = parse(TEXT, ARRAYS)
    result = legalise(model, cpu, GOLDEN, passes=(keeps_its_word,))
    assert model.graph.node(0).inputs[0].name == "x" and result.graph.node(0).inputs[0].name == "c"
    assert result.graph.initializers["c"].const_value is model.graph.initializers["c"].const_value


def test_records_say_what_each_pass_did(parse, cpu) -> None:
    records: list[PassRecord] = []
    legalise(parse(TEXT, ARRAYS), cpu, GOLDEN, passes=(does_nothing, keeps_its_word), record=records.append)
    assert [(each.name, each.modified, each.difference) for each in records] == [
        ("does_nothing", False, None),
        ("keeps_its_word", True, 0.0),
    ]
    assert all(each.milliseconds >= 0 for each in records)


@pytest.mark.parametrize("verify", ["each", "end", None])
@pytest.mark.parametrize(
    ("culprit", "message"),
    [
        (hides_a_change, "hides_a_change: changed the graph and says it did not; report it as a bug of this pass"),
        (boasts, "boasts: says that it changed the graph and did not; report it as a bug of this pass"),
        (breaks_the_structure, "breaks_the_structure: onnx.checker refuses the graph: .*NoSuchOperator"),
        (breaks_the_numbers, "breaks_the_numbers: output 'y' differs by 0.000.* of its magnitude, 5e-05 is allowed"),
        (makes_a_nan, "makes_a_nan: output 'y' differs by inf of its magnitude"),
    ],
)
def test_the_pass_that_broke_its_contract_is_named(parse, cpu, culprit, message, verify) -> None:
    with pytest.raises(CheckFailed, match=f"^{message}") as caught:
        legalise(parse(TEXT, ARRAYS), cpu, GOLDEN, passes=(does_nothing, culprit, keeps_its_word), verify=verify)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("verify", ["each", "end"])
def test_small_differences_may_not_add_up(parse, cpu, verify) -> None:
    few, many = (breaks_them_a_little,) * 2, (breaks_them_a_little,) * 5
    assert legalise(parse(TEXT, ARRAYS), cpu, GOLDEN, passes=few, verify=verify)
    with pytest.raises(CheckFailed, match=r"^all passes together: output 'y' differs by 0.0002 .* 1e-04 is allowed"):
        legalise(parse(TEXT, ARRAYS), cpu, GOLDEN, passes=many, verify=verify)


def test_the_size_decides_when_numbers_are_compared(parse, cpu, monkeypatch, caplog) -> None:
    records: list[PassRecord] = []
    with caplog.at_level(logging.INFO, logger="coformer_passes.runner"):
        legalise(parse(TEXT, ARRAYS), cpu, GOLDEN, passes=(keeps_its_word,), record=records.append)
        monkeypatch.setattr(runner, "EACH_UP_TO_WEIGHTS", 3)
        legalise(parse(TEXT, ARRAYS), cpu, GOLDEN, passes=(keeps_its_word,), record=records.append)
    assert [each.difference for each in records] == [0.0, None]
    assert "4 weights: numerics are compared at each pass" in caplog.text
    assert "4 weights: numerics are compared at the end" in caplog.text


def test_a_graph_that_is_broken_from_the_start_is_no_fault_of_a_pass(parse, cpu) -> None:
    model = parse(TEXT, ARRAYS)
    model.graph.node(1).op_type = "NoSuchOperator"
    with pytest.raises(CheckFailed, match=r"^graph before the passes: onnx.checker refuses the graph"):
        legalise(model, cpu, GOLDEN)


def test_an_input_that_changes_its_type_is_fed_the_cast(parse, nano) -> None:
    model = parse("g (uint8[1,4] pixels) => (float[1,4] y) { floats = Cast<to = 1>(pixels) y = Relu(floats) }")
    result = legalise(model, nano, {"pixels": np.arange(8, dtype=np.uint8).reshape(2, 4)})
    assert result.graph.inputs[0].dtype == ir.DataType.FLOAT
