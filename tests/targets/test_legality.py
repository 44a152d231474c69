"""Tests of coformer_targets.legality."""

from __future__ import annotations

import dataclasses

import pytest

from coformer_runtime.errors import CoformerError
from coformer_targets import load_target, operator_table

NANO = load_target("jetson-nano")


def test_onnx_runtime_has_no_table() -> None:
    assert operator_table(load_target("cpu")) is None


def test_the_table_of_tensorrt_8_2_1() -> None:
    table = operator_table(NANO)
    assert table is not None
    assert (table.engine, table.version, table.opset) == ("tensorrt", "8.2.1", 13)
    assert table.source.startswith("onnx/onnx-tensorrt")
    assert table.aliases == {"int64": "int32", "float64": "float32"}


@pytest.mark.parametrize("op_type", ["MatMul", "Softmax", "Erf", "ReduceMean", "ReduceSum", "Conv", "Gather", "Where"])
def test_what_a_transformer_needs_is_legal(op_type: str) -> None:
    table = operator_table(NANO)
    assert table is not None and "float32" in table.operators[op_type].types


@pytest.mark.parametrize("op_type", ["LayerNormalization", "Gelu", "Trilu", "Mod", "OneHot", "IsInf", "HardSwish"])
def test_what_has_no_importer_has_a_cure(op_type: str) -> None:
    table = operator_table(NANO)
    assert table is not None and op_type not in table.operators and table.cures[op_type]


def test_the_restrictions_of_the_parsers_code() -> None:
    table = operator_table(NANO)
    assert table is not None
    assert "bool" not in table.operators["Where"].types
    assert table.operators["Squeeze"].initializer == (1,)
    assert table.operators["ReduceSum"].initializer == (1,)
    assert table.operators["Gemm"].ranks == (2,)
    assert table.operators["Pad"].attributes == {"mode": ("constant", "edge", "reflect")}


def test_every_rule_is_consistent() -> None:
    table = operator_table(NANO)
    assert table is not None and not set(table.operators) & set(table.cures)
    for name, rule in table.operators.items():
        assert rule.types or rule.data == (), name
        assert set(rule.types) <= set(table.types), name
        assert rule.rule or not (rule.initializer or rule.attributes), name


def test_a_version_without_a_table_suggests_the_nearest() -> None:
    with pytest.raises(CoformerError) as caught:
        operator_table(dataclasses.replace(NANO, engine_version="8.2.3"))
    assert str(caught.value) == (
        "target 'jetson-nano': there is no operator table 'tensorrt-8.2.3'; did you mean the table 'tensorrt-8.2.1'?"
    )
