"""Lower the opset and the IR version to what the target's parser was written for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import onnx_ir as ir

from coformer_passes.check_operators import violations
from coformer_passes.rewriting import (
    add_initializer,
    array_of,
    drop_unused_initializers,
    graph_of,
    name_of,
    static_shape,
)
from coformer_runtime.errors import CoformerError
from coformer_targets import Target

if TYPE_CHECKING:
    from onnx.defs import OpSchema

LOWEST_OPSET = 13


def lower_opset(model: ir.Model, target: Target) -> bool:
    """Rewrite every node in the form that it had in the target's opset; never raises an opset.

    Given (opset 20, IR 10)::

        mean = ReduceMean<keepdims = 1>(x, axes)          a, b = Split<axis = 2, num_outputs = 2>(y)

    Result (opset 13, IR 7)::

        mean = ReduceMean<axes = [-1], keepdims = 1>(x)   a, b = Split<axis = 2>(y, sizes)

    Each node is compared with the schema of its operator at the lower opset: number of inputs, attributes and
    types. What changed only in types needs nothing; what changed in form has a rule below; a newer attribute that holds
    its default is dropped; the rest is refused, all of it at once.

    Why: a parser of 2021 reads opset 13; newer forms of an operator are misread or refused.
    TensorRT: 8.2 (opset 13), 8.4 to 8.6 (17), 10 (20 and on); ONNX Runtime as its version says.
    Source: onnx docs/Changelog.md; onnx.defs, which holds the schemas of all versions.

    Raises:
        CoformerError: nodes that no rule lowers, or a target below opset 13.
    """
    opset = model.graph.opset_imports.get("", 0)
    if opset <= target.opset and model.ir_version <= target.ir_version:
        return False
    if target.opset < LOWEST_OPSET:
        raise CoformerError(
            f"opset {target.opset} of target '{target.name}' is below {LOWEST_OPSET}",
            "lower_opset",
            f"set the target's opset to {LOWEST_OPSET} or more",
        )
    if opset > target.opset:
        _lower_nodes(model, opset, target)
    if model.ir_version > target.ir_version:
        _lower_ir_version(model, target.ir_version)
    return True


def _lower_nodes(model: ir.Model, opset: int, target: Target) -> None:
    problems = []
    for node in list(model.graph.all_nodes()):
        if node.domain != "":
            continue
        new, old = _schema(node, opset), _schema(node, target.opset)
        if old is None or new is None:
            problems.append(f"'{name_of(node)}' ({node.op_type}: not in opset {target.opset})")
            continue
        if new.since_version == old.since_version:
            continue
        if node.op_type in _RULES:
            _RULES[node.op_type](node, old)
        _drop_defaults(node, new, old)
        problem = _misfit(node, old)
        if problem:
            problems.append(f"'{name_of(node)}' ({node.op_type}: {problem})")
    if problems:
        raise _not_lowered(model, target, sorted(problems))
    model.graph.opset_imports[""] = target.opset
    drop_unused_initializers(model.graph)


def _not_lowered(model: ir.Model, target: Target, problems: list[str]) -> CoformerError:
    """All that keeps the graph from the target: what has no older form, and what the engine refuses besides."""
    what = f"{len(problems)} of the nodes cannot be written in opset {target.opset} of {target.name}: "
    what += ", ".join(problems)
    refused = violations(model, target)
    others = [each for each in refused if not any(text.startswith(f"'{each.node}' ") for text in problems)]
    if others:
        what += "; besides, its engine refuses "
        what += ", ".join(f"'{each.node}' ({each.op_type}: {each.problem})" for each in others)
    cures = dict.fromkeys(f"{each.op_type}: {each.cure}" for each in refused)
    return CoformerError(
        what, "lower_opset", "; ".join(cures) or "write them with other operators, or take a target with a higher opset"
    )


def _lower_ir_version(model: ir.Model, ir_version: int) -> None:
    """Set the IR version; metadata of nodes and values came with IR 10 and is dropped below it."""
    model.ir_version = ir_version
    if ir_version >= 10:
        return
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()


def _schema(node: ir.Node, opset: int) -> OpSchema | None:
    from onnx import defs

    try:
        return defs.get_schema(node.op_type, opset, node.domain)
    except defs.SchemaError:
        return None


def _misfit(node: ir.Node, schema: OpSchema) -> str | None:
    """What of the node the older schema does not have, or None where it fits."""
    inputs = [value for value in node.inputs if value is not None]
    if len(node.inputs) > schema.max_input or len(inputs) < schema.min_input:
        return f"{len(inputs)} inputs"
    for name in node.attributes:
        if name not in schema.attributes:
            return f"attribute {name}"
    types = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}
    for index, value in enumerate(node.inputs):
        formal = schema.inputs[min(index, len(schema.inputs) - 1)]
        allowed = types.get(formal.type_str, [formal.type_str])
        if value is not None and value.dtype is not None and _type_string(value.dtype) not in allowed:
            return f"type {value.dtype.name.lower()}"
    return None


def _type_string(dtype: ir.DataType) -> str:
    """The type as an operator schema writes it: FLOAT → 'tensor(float)'."""
    return f"tensor({dtype.name.lower()})"


def _axes_to_attribute(node: ir.Node, schema: OpSchema) -> None:
    """Reductions took their axes as an attribute until opset 17 (ReduceSum until 12)."""
    if "axes" not in schema.attributes:
        return
    axes = array_of(node.inputs[1]) if len(node.inputs) > 1 else None
    if axes is not None:
        node.attributes.add(ir.AttrInt64s("axes", [int(axis) for axis in axes]))
        node.replace_input_with(1, None)
        node.resize_inputs(1)


def _sizes_of_split(node: ir.Node, schema: OpSchema) -> None:
    """`num_outputs` came with opset 18; before, unequal or equal sizes were both an input."""
    import numpy as np

    count = node.attributes.get_int("num_outputs", None)
    assert node.inputs[0] is not None
    shape = static_shape(node.inputs[0])
    if count is None or shape is None or "num_outputs" in schema.attributes:
        return
    del node.attributes["num_outputs"]
    length = shape[node.attributes.get_int("axis", 0)]
    size = -(-length // count)
    sizes = [size] * (count - 1) + [length - size * (count - 1)]
    value = add_initializer(graph_of(node), f"{name_of(node)}.sizes", np.array(sizes, dtype=np.int64))
    node.resize_inputs(2)
    node.replace_input_with(1, value)


def _axes_of_pad(node: ir.Node, schema: OpSchema) -> None:
    """The axes of Pad came with opset 18; before, the pads of all axes were written."""
    import numpy as np

    if len(node.inputs) < 4 or node.inputs[3] is None or schema.max_input > 3:
        return
    pads, axes = array_of(node.inputs[1]), array_of(node.inputs[3])
    assert node.inputs[0] is not None
    shape = static_shape(node.inputs[0])
    if pads is None or axes is None or shape is None:
        return
    full = np.zeros((2, len(shape)), dtype=np.int64)
    full[:, [int(axis) for axis in axes]] = pads.reshape(2, -1)
    value = add_initializer(graph_of(node), f"{name_of(node)}.pads", full.reshape(-1))
    node.replace_input_with(1, value)
    node.replace_input_with(3, None)
    node.resize_inputs(3)


def _drop_defaults(node: ir.Node, new: OpSchema, old: OpSchema) -> None:
    """Remove newer attributes that hold their default: the only behaviour that the older operator had."""
    from onnx import helper

    for name, attribute in list(node.attributes.items()):
        if name in old.attributes or name not in new.attributes:
            continue
        default = new.attributes[name].default_value
        if default.name and _plain(helper.get_attribute_value(default)) == _plain(attribute.value):
            del node.attributes[name]


def _plain(value: object) -> object:
    """A value of an attribute in the form that onnx and onnx_ir have in common."""
    if isinstance(value, bytes):
        return value.decode()
    return list(value) if isinstance(value, (list, tuple)) else value


def _plain_reshape(node: ir.Node, schema: OpSchema) -> None:
    """`allowzero` (opset 14) only matters where the shape holds a zero."""
    if "allowzero" in schema.attributes:
        return
    shape = array_of(node.inputs[1])
    if shape is not None and (shape != 0).all():
        node.attributes.pop("allowzero", None)


def _plain_pool(node: ir.Node, schema: OpSchema) -> None:
    """`dilations` came with opset 18 (LpPool) and 19 (AveragePool); their default has no value in the schema: ones."""
    if "dilations" not in schema.attributes and all(each == 1 for each in node.attributes.get_ints("dilations", [])):
        node.attributes.pop("dilations", None)


def _plain_cast(node: ir.Node, schema: OpSchema) -> None:
    """`saturate` and `round_mode` speak of 8-bit floats only."""
    for name in ("saturate", "round_mode"):
        if name not in schema.attributes:
            node.attributes.pop(name, None)


_RULES: dict[str, Callable[[ir.Node, OpSchema], None]] = {
    "AveragePool": _plain_pool,
    "Cast": _plain_cast,
    "LpPool": _plain_pool,
    "Pad": _axes_of_pad,
    "ReduceL1": _axes_to_attribute,
    "ReduceL2": _axes_to_attribute,
    "ReduceLogSum": _axes_to_attribute,
    "ReduceLogSumExp": _axes_to_attribute,
    "ReduceMax": _axes_to_attribute,
    "ReduceMean": _axes_to_attribute,
    "ReduceMin": _axes_to_attribute,
    "ReduceProd": _axes_to_attribute,
    "ReduceSumSquare": _axes_to_attribute,
    "Reshape": _plain_reshape,
    "Split": _sizes_of_split,
}
