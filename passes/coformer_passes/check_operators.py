"""Hold every node against the operator table of the target's engine version."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from coformer_passes.rewriting import array_of, name_of, static_shape
from coformer_runtime.errors import CoformerError
from coformer_targets import OperatorRule, OperatorTable, Target, operator_table


def check_operators(model: ir.Model, target: Target) -> bool:
    """Refuse a graph that the target's engine would refuse; never changes it.

    Given, for TensorRT 8.2.1::

        y = Trilu(x)

    Result::

        check_operators: 1 node is not legal in TensorRT 8.2.1 (jetson-nano): 'mask' (Trilu): no importer; …

    Checked per node: the domain, the operator, the element types, the rank of the first input, what must be an
    initializer, attribute values, and that every shape is static. All violations are listed at once.

    Why: the parser's own message comes on the board, after the bundle has been shipped, and names the first node only.
    TensorRT: the table of the target's exact version. ONNX Runtime has no table: its session is the proof.
    Source: the tables of coformer_targets, each with its own.

    Raises:
        CoformerError: naming each node, the version, the rule and the cure.
    """
    table = operator_table(target)
    if table is None:
        return False
    violations = [
        f"'{name_of(node)}' ({node.op_type}): {problem}"
        for node in model.graph.all_nodes()
        for problem in _problems(node, table)
    ]
    violations += [f"input '{value.name}': {problem}" for value in model.graph.inputs for problem in _bad(value, table)]
    if violations:
        count = "1 node is" if len(violations) == 1 else f"{len(violations)} nodes are"
        raise CoformerError(
            f"{count} not legal in TensorRT {table.version} ({target.name}): " + "; ".join(violations),
            "check_operators",
            _mend([node.op_type for node in model.graph.all_nodes()], table),
        )
    return False


def _problems(node: ir.Node, table: OperatorTable) -> Iterator[str]:
    if node.domain != "":
        yield f"the domain '{node.domain}' is not ONNX's own"
        return
    rule = table.operators.get(node.op_type)
    if rule is None:
        yield "no importer"
        return
    yield from _type_problems(node, rule, table)
    for output in node.outputs:
        yield from _bad(output, table)
    for index in rule.initializer:
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is not None and array_of(value) is None:
            yield f"input {index} ('{value.name}') is computed: {rule.rule}"
    first = node.inputs[0] if node.inputs else None
    if rule.ranks and first is not None and first.shape is not None and len(first.shape) not in rule.ranks:
        allowed = " or ".join(str(rank) for rank in rule.ranks)
        yield f"input 0 has rank {len(first.shape)}, {allowed} is allowed"
    for name, values in (rule.attributes or {}).items():
        found = node.attributes.get_string(name, None)
        if found is not None and found not in values:
            yield f"{name} = {found}: {rule.rule}"


def _type_problems(node: ir.Node, rule: OperatorRule, table: OperatorTable) -> Iterator[str]:
    indices = rule.data if rule.data is not None else range(len(node.inputs))
    for index in indices:
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None or value.dtype is None:
            continue
        found = _type_name(value.dtype)
        if table.aliases.get(found, found) not in rule.types:
            reason = f": {rule.rule}" if rule.rule else ""
            yield f"input {index} is {found}, {', '.join(rule.types)} are allowed{reason}"


def _bad(value: ir.Value, table: OperatorTable) -> Iterator[str]:
    """What is wrong with a value wherever it stands: its type, or a dynamic axis."""
    if value.dtype is not None:
        found = _type_name(value.dtype)
        if table.aliases.get(found, found) not in table.types:
            yield f"'{value.name}' is {found}, which the engine has not"
    if value.shape is not None and static_shape(value) is None:
        yield f"'{value.name}' has the dynamic shape {value.shape}; static shapes are needed"


def _mend(op_types: list[str], table: OperatorTable) -> str:
    """The cure of each refused operator, or the general one."""
    refused = sorted({op_type for op_type in op_types if op_type not in table.operators})
    cures = [f"{op_type}: {table.cures[op_type]}" for op_type in refused if op_type in table.cures]
    return "; ".join(cures) if cures else "write them with operators and types of the table, or take another target"


def _type_name(dtype: ir.DataType) -> str:
    """The type as the tables write it: FLOAT → 'float32'."""
    return {"FLOAT": "float32", "DOUBLE": "float64"}.get(dtype.name, dtype.name.lower())
