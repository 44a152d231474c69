"""The few graph edits that every pass is written with: read a constant, add a node, take over an output."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from coformer_runtime.errors import CoformerError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Attribute = int | float | str | Sequence[int]


def array_of(value: ir.Value | None) -> NDArray[np.generic] | None:
    """The constant that `value` holds (initializer or Constant node), or None where it is computed."""
    if value is None:
        return None
    if value.is_graph_input():
        return None  # an initializer that is also an input is a default that a caller may override
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def floats_of(value: ir.Value | None) -> NDArray[np.float32] | None:
    """The float32 constant that `value` holds, as it is stored, or None where it is computed or of another type."""
    import numpy as np

    array = array_of(value)
    return array.astype(np.float32, copy=False) if array is not None and array.dtype == np.float32 else None


def scalar_of(value: ir.Value | None) -> float | None:
    """The one number that a constant of a single element holds, or None."""
    array = floats_of(value)
    return float(array.reshape(())) if array is not None and array.size == 1 else None


def static_shape(value: ir.Value) -> tuple[int, ...] | None:
    """The shape of `value`, or None where it is unknown or has a dynamic axis."""
    if value.shape is None or not value.shape.is_static():
        return None
    return tuple(int(dim) for dim in value.shape.numpy())


def only_consumer(value: ir.Value) -> ir.Node | None:
    """The one node that reads `value`, once; None where there are more uses or it is a graph output."""
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output():
        return None
    return uses[0].node


def producer_of(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The node of the default domain that makes `value`, if it is one of `op_types`."""
    node = None if value is None else value.producer()
    if node is None or node.domain != "" or node.op_type not in op_types:
        return None
    return node


def dtype_of(value: ir.Value) -> np.dtype[np.generic]:
    """The numpy dtype of `value`, float32 where it is not known."""
    import numpy as np

    return np.dtype(np.float32) if value.dtype is None else value.dtype.numpy()


def is_op(node: ir.Node | None, *op_types: str) -> bool:
    """Whether `node` is one of `op_types` of the default domain."""
    return node is not None and node.domain == "" and node.op_type in op_types


def name_of(node: ir.Node) -> str:
    """What to call a node in names and messages: its own name, else its first output's."""
    return node.name or node.outputs[0].name or node.op_type


def normalised_axes(norm: ir.Node, x: ir.Value, where: str) -> tuple[list[int], int, list[int]]:
    """The axes that a norm of `x` reduces (counted from the end), their elements, and the shape that they leave.

    Raises:
        CoformerError: the shape of `x` is not known; names the pass `where`.
    """
    shape = static_shape(x)
    if shape is None:
        raise CoformerError(
            f"node '{name_of(norm)}' has an input of unknown or dynamic shape",
            where,
            "give the graph static shapes and run infer_shapes first",
        )
    axis = norm.attributes.get_int("axis", -1)
    first = axis if axis >= 0 else len(shape) + axis
    reduced = [*shape[:first], *(1 for _ in shape[first:])]
    return list(range(first - len(shape), 0)), math.prod(shape[first:]), reduced


def graph_of(node: ir.Node) -> ir.Graph:
    """The graph that holds the node."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    return graph


def add_initializer(graph: ir.Graph, name: str, array: NDArray[np.generic]) -> ir.Value:
    """Register a constant; an equal name gets a number."""
    unique, number = name, 1
    while unique in graph.initializers:
        number += 1
        unique = f"{name}.{number}"
    tensor = ir.tensor(array, name=unique)
    value = ir.Value(name=unique, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def set_constant(node: ir.Node, index: int, array: NDArray[np.generic]) -> None:
    """Give input `index` of `node` another constant of the same name; other users of the old one keep it."""
    value = node.inputs[index]
    assert value is not None and value.name is not None
    graph = graph_of(node)
    if value.is_initializer() and len(value.uses()) == 1 and not value.is_graph_output():
        tensor = ir.tensor(array, name=value.name)
        value.const_value, value.type, value.shape = tensor, ir.TensorType(tensor.dtype), ir.Shape(array.shape)
        return
    node.replace_input_with(index, add_initializer(graph, value.name, array))


def add_node(
    before: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value],
    name: str,
    *,
    like: ir.Value | None = None,
    shape: Sequence[int] | None = None,
    attributes: Mapping[str, Attribute] | None = None,
) -> ir.Value:
    """Insert a node of the default domain in front of `before`; returns its output, named after it.

    The output takes dtype and shape from `like`, or `shape` instead of its shape.
    """
    output = ir.Value(name=name)
    if like is not None:
        output.type = like.type
        output.shape = ir.Shape(shape) if shape is not None else like.shape
    node = ir.node(op_type, inputs, attributes=attributes, outputs=[output], name=name)
    graph_of(before).insert_before(before, node)
    return output


def take_over(node: ir.Node, replacement: ir.Value) -> None:
    """Let `replacement` stand for the first output of `node`, under its name, and remove the node."""
    old = node.outputs[0]
    name, was_output = old.name, old.is_graph_output()
    replacement.type, replacement.shape = old.type or replacement.type, old.shape or replacement.shape
    old.replace_all_uses_with(replacement, replace_graph_outputs=True)
    graph_of(node).remove(node, safe=True)
    if was_output:
        replacement.name = name


def bypass(node: ir.Node) -> None:
    """Remove a node whose first input stands for its first output; both names of a graph output stay."""
    source = node.inputs[0]
    assert source is not None
    output = node.outputs[0]
    if output.is_graph_output():
        if source.producer() is None or source.is_graph_output():
            return
        name = output.name
        output.replace_all_uses_with(source, replace_graph_outputs=True)
        graph_of(node).remove(node, safe=True)
        source.name = name
        return
    output.replace_all_uses_with(source)
    graph_of(node).remove(node, safe=True)


def drop_unused_initializers(graph: ir.Graph) -> bool:
    """Remove the constants that no node reads any more; says whether there were any."""
    unused = [
        name
        for name, value in graph.initializers.items()
        if not value.uses() and not value.is_graph_output() and not value.is_graph_input()
    ]
    for name in unused:
        del graph.initializers[name]
    return bool(unused)
