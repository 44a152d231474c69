"""Tests of coformer_targets.legality."""

from __future__ import annotations

import dataclasses

import pytest

from coformer_runtime.errors import CoformerError
from coformer_targets import load_target, operator_table, operator_table_of, target_variants
from coformer_targets.table_versions import table_versions

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


TABLES = [(engine, version) for engine in ("tensorrt", "tensorrt-rtx") for version in table_versions(engine)]


@pytest.mark.parametrize("name", target_variants())
def test_every_target_has_its_table(name: str) -> None:
    target = load_target(name)
    assert (operator_table(target) is None) is (target.engine == "onnxruntime")


@pytest.mark.parametrize(("engine", "version"), TABLES)
def test_every_rule_is_consistent(engine: str, version: str) -> None:
    table = operator_table_of(engine, version, "test")
    assert table is not None and not set(table.operators) & set(table.cures)
    for name, rule in table.operators.items():
        assert rule.types or rule.data == (), name
        assert set(rule.types) <= set(table.types), name
        assert rule.rule or not (rule.initializer or rule.attributes or rule.checks), name


@pytest.mark.parametrize(
    ("version", "exact"),
    [
        ("8.2.1", True),
        ("8.4.1", True),
        ("8.5.2", True),
        ("8.6.2", True),
        ("10.1.0", True),
        ("10.3.0", False),
        ("10.7.0", False),
        ("10.16.2", False),
        ("11.1.0", False),
    ],
)
def test_a_table_says_whether_it_is_exact(version: str, exact: bool) -> None:
    table = operator_table(dataclasses.replace(NANO, engine_version=version))
    assert table is not None and table.exact is exact and table.title == f"TensorRT {version}"


@pytest.mark.parametrize(
    ("op_type", "first"),
    [
        ("HardSwish", "8.4.1"),
        ("Trilu", "8.5.2"),
        ("LayerNormalization", "8.6.2"),
        ("Gelu", "10.1.0"),
        ("STFT", "10.7.0"),
        ("RMSNormalization", "10.16.2"),
        ("Attention", "10.16.2"),
        ("Swish", "11.1.0"),
    ],
)
def test_an_operator_is_there_from_its_first_version_on(op_type: str, first: str) -> None:
    versions = table_versions("tensorrt")
    for version in versions:
        table = operator_table(dataclasses.replace(NANO, engine_version=version))
        assert table is not None
        assert (op_type in table.operators) is (versions.index(version) >= versions.index(first)), version


@pytest.mark.parametrize(
    ("version", "table"),
    [("8.2.1", "8.2.1"), ("8.2.5", "8.2.1"), ("8.6.1", "8.6.2"), ("8.6", "8.6.2"), ("10.3.0.30", "10.3.0")],
)
def test_a_version_goes_by_the_table_of_its_minor_version(version: str, table: str) -> None:
    found = operator_table(dataclasses.replace(NANO, engine_version=version))
    assert found is not None and found.version == table


@pytest.mark.parametrize("version", ["8.3.0", "10.5.0", "9", "8"])
def test_a_version_without_a_table_names_those_that_there_are(version: str) -> None:
    with pytest.raises(CoformerError) as caught:
        operator_table(dataclasses.replace(NANO, engine_version=version))
    assert str(caught.value) == (
        f"target 'jetson-nano', engine_version: which operators TensorRT {version} takes is not known; take one of "
        "8.2, 8.4, 8.5, 8.6, 10.1, 10.3, 10.7, 10.13, 10.16, 11.1: any patch of them will do"
    )


def test_no_rule_is_told_twice() -> None:
    for version in table_versions("tensorrt"):
        table = operator_table_of("tensorrt", version, "test")
        assert table is not None
        for op_type, rule in table.operators.items():
            parts = rule.rule.split("; ")
            assert len(set(parts)) == len(parts), (version, op_type)
            assert "also" not in rule.rule, (version, op_type)


@pytest.mark.parametrize("op_type", ["Add", "Div", "Greater", "Less", "Max", "Min", "Mul", "Sub"])
@pytest.mark.parametrize("version", ["8.2.1", "8.4.1", "8.5.2", "8.6.2"])
def test_arithmetic_on_booleans_is_refused_where_it_is(version: str, op_type: str) -> None:
    table = operator_table_of("tensorrt", version, "test")
    assert table is not None
    assert table.operators[op_type].rule == "BOOL is refused" and "bool" not in table.operators[op_type].types


def test_the_tables_between() -> None:
    """8.4 has 8.2's rules and four more operators; 10.7 has windows, and Pads with computed axes."""
    tables = {version: operator_table_of("tensorrt", version, "test") for version in table_versions("tensorrt")}
    old, middle, later = (tables[version] for version in ("8.2.1", "8.4.1", "8.5.2"))
    assert old is not None and middle is not None and later is not None
    assert set(middle.operators) - set(old.operators) == {"HardSwish", "Reciprocal", "Shrink", "Xor"}
    assert set(middle.operators) < set(later.operators)
    assert "bool" not in middle.operators["Where"].types and "bool" in later.operators["Where"].types
    first, third, seventh = (tables[version] for version in ("10.1.0", "10.3.0", "10.7.0"))
    assert first is not None and third is not None and seventh is not None
    assert set(first.operators) == set(third.operators)
    assert set(seventh.operators) - set(third.operators) == {"BlackmanWindow", "HammingWindow", "HannWindow", "STFT"}
    assert third.operators["Pad"].initializer == (3,) and seventh.operators["Pad"].initializer == ()
