"""Tests of coformer_targets.legality."""

from __future__ import annotations

import dataclasses

import pytest

from coformer_runtime.errors import CoformerError
from coformer_targets import load_target, operator_table, target_variants

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


@pytest.mark.parametrize("name", [name for name in target_variants() if load_target(name).engine != "onnxruntime"])
def test_every_rule_is_consistent(name: str) -> None:
    table = operator_table(load_target(name))
    assert table is not None and not set(table.operators) & set(table.cures)
    for name, rule in table.operators.items():
        assert rule.types or rule.data == (), name
        assert set(rule.types) <= set(table.types), name
        assert rule.rule or not (rule.initializer or rule.attributes), name


@pytest.mark.parametrize(
    ("version", "exact"),
    [("8.2.1", True), ("8.5.2", True), ("8.6.2", True), ("10.3.0", False), ("10.16.2", False), ("11.1.0", False)],
)
def test_a_table_says_whether_it_is_exact(version: str, exact: bool) -> None:
    table = operator_table(dataclasses.replace(NANO, engine_version=version))
    assert table is not None and table.exact is exact and table.title == f"TensorRT {version}"


@pytest.mark.parametrize(
    ("op_type", "first"),
    [
        ("HardSwish", "8.5.2"),
        ("Trilu", "8.5.2"),
        ("LayerNormalization", "8.6.2"),
        ("Gelu", "10.3.0"),
        ("RMSNormalization", "10.16.2"),
        ("Attention", "10.16.2"),
        ("Swish", "11.1.0"),
    ],
)
def test_an_operator_is_there_from_its_first_version_on(op_type: str, first: str) -> None:
    versions = ("8.2.1", "8.5.2", "8.6.2", "10.3.0", "10.13.3", "10.16.2", "11.1.0")
    for version in versions:
        table = operator_table(dataclasses.replace(NANO, engine_version=version))
        assert table is not None
        assert (op_type in table.operators) is (versions.index(version) >= versions.index(first)), version


def test_a_version_without_a_table_suggests_the_nearest() -> None:
    with pytest.raises(CoformerError) as caught:
        operator_table(dataclasses.replace(NANO, engine_version="8.2.3"))
    assert str(caught.value) == (
        "target 'jetson-nano': there is no operator table 'tensorrt-8.2.3'; did you mean the table 'tensorrt-8.2.1'?"
    )
