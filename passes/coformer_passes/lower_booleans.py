"""Write logic on booleans with And, Or and Not where the engine takes nothing else."""

from __future__ import annotations

import onnx_ir as ir

from coformer_passes.rewriting import add_node, is_op, name_of, take_over
from coformer_targets import OperatorTable, Target, operator_table

MOVING = ("Gather", "GatherElements", "GatherND", "Pad", "ScatterElements", "ScatterND", "Slice", "Split", "Tile")


def lower_booleans(model: ir.Model, target: Target) -> bool:
    """Replace Xor, and Equal and Where on booleans, by And, Or and Not; let Gather and its like move int32.

    Given, for TensorRT 8.2.1::

        z = Where(c, x, y)              e = Equal(x, y)                        g = Gather(x, i)      all of them BOOL

    Result::

        z = Or(And(c, x), And(Not(c), y))
        e = Or(And(x, y), And(Not(x), Not(y)))
        g = Cast<to = BOOL>(Gather(Cast<to = INT32>(x), i))

    Why: masks are booleans in newer exports; the parser rejects BOOL for x and y of Where, for Equal and for Gather,
    and has no importer for Xor.
    TensorRT: 8.2 (Xor from 8.4, Where from 8.5 on); which ones, the version's table says. ONNX Runtime has no kernel
    for Where on booleans, and takes the others.
    Source: onnx-tensorrt 85e79f629fb5 builtin_op_importers.cpp.
    """
    table = operator_table(target)
    changed = False
    for node in list(model.graph):
        if is_op(node, "Xor", "Equal", "Where", *MOVING) and _refuses_booleans(node, table):
            changed |= _lower(node)
    return changed


def _refuses_booleans(node: ir.Node, table: OperatorTable | None) -> bool:
    """Whether the node has boolean data, and the table does not take it."""
    data = node.inputs[1] if is_op(node, "Where") else node.inputs[0]
    if data is None or data.dtype != ir.DataType.BOOL:
        return False
    if table is None:
        return is_op(node, "Where")
    rule = table.operators.get(node.op_type)
    return rule is None or "bool" not in rule.types


def _lower(node: ir.Node) -> bool:
    name = name_of(node)
    output = node.outputs[0]

    def op(op_type: str, suffix: str, *inputs: ir.Value) -> ir.Value:
        return add_node(node, op_type, inputs, f"{name}.{suffix}", like=output)

    inputs = [value for value in node.inputs if value is not None]
    if is_op(node, "Where"):
        chosen, other, rest = inputs
        taken, left = op("And", "taken", chosen, other), op("And", "left", op("Not", "otherwise", chosen), rest)
        take_over(node, op("Or", "either", taken, left))
        return True
    if is_op(node, "Equal", "Xor"):
        first, second = inputs
        not_first, not_second = op("Not", "not_first", first), op("Not", "not_second", second)
        pairs = [(first, second), (not_first, not_second)]
        if is_op(node, "Xor"):
            pairs = [(first, not_second), (not_first, second)]
        both = [op("And", f"case{number}", *pair) for number, pair in enumerate(pairs)]
        take_over(node, op("Or", "either", *both))
        return True
    return _move_integers(node)


def _move_integers(node: ir.Node) -> bool:
    """Cast the boolean inputs to int32 in front of the node, and its outputs back behind it."""
    name, graph = name_of(node), node.graph
    assert isinstance(graph, ir.Graph)
    for index, value in enumerate(node.inputs):
        if value is not None and value.dtype == ir.DataType.BOOL:
            cast = add_node(
                node, "Cast", [value], f"{name}.integers{index}", like=value, attributes={"to": int(ir.DataType.INT32)}
            )
            cast.type = ir.TensorType(ir.DataType.INT32)
            node.replace_input_with(index, cast)
    for output in node.outputs:
        moved = ir.Value(name=output.name, type=output.type, shape=output.shape)
        output.replace_all_uses_with(moved, replace_graph_outputs=True)
        output.name, output.type = f"{output.name}.integers", ir.TensorType(ir.DataType.INT32)
        graph.insert_after(
            node,
            ir.node("Cast", [output], {"to": int(ir.DataType.BOOL)}, outputs=[moved], name=f"{moved.name}.booleans"),
        )
    return True
