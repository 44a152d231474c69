"""Hold every node against the operator table of the target's engine version."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import onnx_ir as ir

from coformer_passes.operator_rules import CHECKS, KNOW_SHAPES, unknown_shape, unknown_type
from coformer_passes.rewriting import array_of, name_of, static_shape
from coformer_runtime.errors import CoformerError
from coformer_targets import OperatorRule, OperatorTable, Target, operator_table

GENERAL_CURE = "write it with operators of the table, or take a newer target"


class Violation(NamedTuple):
    """One thing that an engine refuses in a graph.

    Attributes:
        op_type: the operator, "input" for an input of the graph.
        node: the node's name, or the input's.
        problem: the rule that is broken.
        cure: the pass or option that mends it.
    """

    op_type: str
    node: str
    problem: str
    cure: str


def check_operators(model: ir.Model, target: Target) -> bool:
    """Refuse a graph that the target's engine would refuse; never changes it.

    Given, for TensorRT 8.2.1::

        mask = Trilu(x)

    Result::

        check_operators: 1 node is not legal in TensorRT 8.2.1 (jetson-nano): 'mask' (Trilu): no importer;
        Trilu: give the mask as an initializer: with static shapes the pass fold_constants does

    Checked per node: the domain, the operator, the element types, the rank of the first input, what must be an
    initializer, attribute values, outputs in use, the table's further rules (coformer_passes.operator_rules), and that
    every shape is static. A type or a shape that a rule needs and that is not known is a violation too. All violations
    are listed at once.

    Why: the parser's own message comes on the board, after the bundle has been shipped, and names the first node only.
    TensorRT: the table of the target's version. ONNX Runtime has no table: its session is the proof.
    Source: the tables of coformer_targets, each with its own.

    Raises:
        CoformerError: naming each node, the version, the rule and the cure.
    """
    table = operator_table(target)
    if table is not None:
        check_against(model, table, target.name)
    return False


def check_against(model: ir.Model, table: OperatorTable, target_name: str) -> None:
    """Raise `check_operators`' error where the graph breaks a rule of the table."""
    found = violations_of(model, table)
    if not found:
        return
    count = "1 node is" if len(found) == 1 else f"{len(found)} nodes are"
    listed = "; ".join(f"'{each.node}' ({each.op_type}): {each.problem}" for each in found)
    cures = dict.fromkeys((each.op_type, each.cure) for each in found)
    raise CoformerError(
        f"{count} not legal in {table.title} ({target_name}): {listed}",
        "check_operators",
        "; ".join(f"{op_type}: {cure}" for op_type, cure in cures),
    )


def violations(model: ir.Model, target: Target) -> list[Violation]:
    """Everything in the graph that the target's engine refuses, sorted by operator and node."""
    table = operator_table(target)
    return [] if table is None else violations_of(model, table)


def violations_of(model: ir.Model, table: OperatorTable) -> list[Violation]:
    """Everything in the graph that breaks a rule of the table, sorted by operator and node."""
    found = [
        Violation(node.op_type, name_of(node), problem, cure)
        for node in model.graph.all_nodes()
        for problem, cure in _problems(node, table)
    ]
    found += [
        Violation("input", str(value.name), problem, cure)
        for value in model.graph.inputs
        for problem, cure in _bad(value, table)
    ]
    return sorted(set(found))


def _problems(node: ir.Node, table: OperatorTable) -> Iterator[tuple[str, str]]:
    """What is wrong with a node, and the cure of each."""
    if node.domain != "":
        yield (
            f"the domain '{node.domain}' is not ONNX's own",
            "write it with ONNX's own operators, or as a function in the model, which is inlined",
        )
        return
    rule = table.operators.get(node.op_type)
    if rule is None:
        yield (
            "no importer",
            table.cures.get(node.op_type, GENERAL_CURE),
        )
        return
    yield from _type_problems(node, rule, table)
    for output in node.outputs:
        yield from _bad(output, table)
        if _is_lost(node, output):
            yield f"the type or shape of '{output.name}' is not known", KNOW_SHAPES
    for index in rule.initializer:
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is not None and array_of(value) is None:
            yield (
                f"input {index} ('{value.name}') is computed: {rule.rule}",
                rule.cure or "make it constant: with static shapes the pass fold_constants does",
            )
    first = node.inputs[0] if node.inputs else None
    if rule.ranks and first is not None and first.shape is None:
        yield unknown_shape(0, first)
    elif rule.ranks and first is not None and first.shape is not None and len(first.shape) not in rule.ranks:
        allowed = " or ".join(str(rank) for rank in rule.ranks)
        yield f"input 0 has rank {len(first.shape)}, {allowed} is allowed", rule.cure or "reshape its input first"
    for name, values in (rule.attributes or {}).items():
        found = node.attributes.get_string(name, None)
        if found is not None and found not in values:
            yield f"{name} = {found}: {rule.rule}", rule.cure or f"export it with another {name}: {', '.join(values)}"
    if rule.outputs is not None and any(
        output.uses() or output.is_graph_output() for output in node.outputs[rule.outputs :]
    ):
        yield f"output {rule.outputs} is read: {rule.rule}", rule.cure or "remove what reads it"
    for check in rule.checks:
        for problem, cure in CHECKS[check](node):
            yield f"{problem}: {rule.rule}", cure


def _type_problems(node: ir.Node, rule: OperatorRule, table: OperatorTable) -> Iterator[tuple[str, str]]:
    indices = rule.data if rule.data is not None else range(len(node.inputs))
    for index in indices:
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None:
            continue
        if value.dtype is None:
            yield unknown_type(index, value)
            continue
        found = _type_name(value.dtype)
        if table.aliases.get(found, found) not in rule.types:
            reason = f": {rule.rule}" if rule.rule else ""
            allowed = f"input {index} is {found}, {', '.join(rule.types)} are allowed{reason}"
            yield allowed, rule.cure or f"cast it to {rule.types[0]} first"


def _is_lost(node: ir.Node, output: ir.Value) -> bool:
    """Whether an output that is read has no known type or shape, and the inputs do: where the knowledge is lost."""
    if not (output.uses() or output.is_graph_output()) or (output.dtype is not None and output.shape is not None):
        return False
    return all(value is None or (value.dtype is not None and value.shape is not None) for value in node.inputs)


def _bad(value: ir.Value, table: OperatorTable) -> Iterator[tuple[str, str]]:
    """What is wrong with a value wherever it stands: its type, or a dynamic axis."""
    if value.dtype is not None:
        found = _type_name(value.dtype)
        if table.aliases.get(found, found) not in table.types:
            cure = "run the pass widen_input" if found == "uint8" else "export it in float32"
            yield f"'{value.name}' is {found}, which the engine has not", cure
    if value.shape is not None and static_shape(value) is None:
        yield (
            f"'{value.name}' has the dynamic shape {value.shape}; static shapes are needed",
            "export the graph with static shapes",
        )


def _type_name(dtype: ir.DataType) -> str:
    """The type as the tables write it: FLOAT → 'float32'."""
    return {"FLOAT": "float32", "DOUBLE": "float64"}.get(dtype.name, dtype.name.lower())
