"""Write operators out that the engine lacks and that ONNX defines by other operators."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from coformer_passes.fold_constants import fold_constants
from coformer_passes.infer_shapes import infer_shapes
from coformer_passes.rewriting import graph_of, name_of
from coformer_targets import OperatorTable, Target, operator_table

if TYPE_CHECKING:
    import onnx
    from onnx.defs import OpSchema


def expand_functions(model: ir.Model, target: Target) -> bool:
    """Replace an operator by the body that ONNX gives for it, where the engine or its opset has no such operator.

    Given, for TensorRT 8.2.1::

        y = HardSwish(x)

    Result::

        y = Mul(x, HardSigmoid<alpha = 0.1666, beta = 0.5>(x))

    So are written: Attention, CastLike, Clip, GroupNormalization, HardSwish, MeanVarianceNormalization, Mish,
    RotaryEmbedding, Shrink, Swish and whatever else is a function in ONNX's definitions and missing in the target's
    table. What a body computes from shapes is folded right away. Norms and Gelu have passes of their own, in an
    order that survives FP16, and are written out before.

    Why: "no importer registered for op: …" on graphs of newer exporters.
    TensorRT: all versions, each by its table; ONNX Runtime where the target's opset is below the operator's.
    Source: ONNX's own function bodies (onnx.inliner); they are the definition of the operators.
    """
    table = operator_table(target)
    changed = False
    while True:
        missing = [node for node in model.graph if node.domain == "" and _is_missing(node, table, target)]
        expanded = [node for node in missing if _expand(node, model)]
        if not expanded:
            return changed
        changed = True
        # A body may hold operators that are written out as well, which takes the types of what they read.
        infer_shapes(model, target)
        while fold_constants(model, target):
            infer_shapes(model, target)


def _is_missing(node: ir.Node, table: OperatorTable | None, target: Target) -> bool:
    from onnx import defs

    if table is not None and node.op_type not in table.operators:
        return True
    try:
        defs.get_schema(node.op_type, target.opset, "")
    except defs.SchemaError:
        return True
    return False


def _expand(node: ir.Node, model: ir.Model) -> bool:
    """Put ONNX's body of the node in its place; says whether there is one."""
    import onnx
    from onnx import defs
    from onnx.inliner import inline_selected_functions

    opset = model.graph.opset_imports[""]
    try:
        schema = defs.get_schema(node.op_type, opset, "")
    except defs.SchemaError:
        return False
    if any(attribute.type == ir.AttributeType.GRAPH for attribute in node.attributes.values()):
        return False
    inputs = list(dict.fromkeys(value for value in node.inputs if value is not None))
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(
            [_with_defaults(node, schema)],
            "one",
            [ir.to_proto(ir.Value(name=value.name, type=value.type, shape=value.shape)) for value in inputs],
            [ir.to_proto(value) for value in node.outputs],
        ),
        opset_imports=[onnx.helper.make_opsetid("", opset)],
        ir_version=model.ir_version,
    )
    body = ir.from_proto(inline_selected_functions(proto, [("", node.op_type)], inline_schema_functions=True))
    if any(each.op_type == node.op_type for each in body.graph):
        return False
    _splice(node, body.graph, {str(value.name): value for value in inputs})
    return True


def _with_defaults(node: ir.Node, schema: OpSchema) -> onnx.NodeProto:
    """The node with all its attributes: a body refers to them, and the inliner leaves out those that are not there."""
    proto: onnx.NodeProto = ir.to_proto(node)
    for name, attribute in schema.attributes.items():
        if name not in node.attributes and attribute.default_value.type:
            proto.attribute.append(attribute.default_value)
    return proto


def _splice(node: ir.Node, body: ir.Graph, inputs: dict[str, ir.Value]) -> None:
    """Put the nodes of `body` in front of `node`, let them make its outputs, and remove it."""
    name, graph = name_of(node), graph_of(node)
    results = [value.name for value in body.outputs]
    nodes = list(body)
    for value in body.inputs:
        value.replace_all_uses_with(inputs[str(value.name)])
    body.outputs.clear()
    body.remove(nodes)
    for number, each in enumerate(nodes):
        each.name = f"{name}.{number}.{each.op_type}"
        for output in each.outputs:
            if output.name not in results:
                output.name = f"{name}.{output.name}"
        graph.insert_before(node, each)
    made = {output.name: output for each in nodes for output in each.outputs}
    for old, result in zip(node.outputs, results, strict=True):
        new = made[result]
        kept = old.name
        if new.type is None:
            new.type, new.shape = old.type, old.shape
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        old.name, new.name = None, kept
    graph.remove(node, safe=True)
