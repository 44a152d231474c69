"""Evaluate what depends on constants only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from coformer_passes.rewriting import add_initializer, array_of, drop_unused_initializers, name_of, static_shape
from coformer_targets import Target

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LARGEST_RESULT = 1 << 20
RANDOM_OPS = frozenset(
    {"Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)


def fold_constants(model: ir.Model, target: Target) -> bool:
    """Replace nodes whose inputs are all constant by their result; Constant nodes become initializers.

    Given (static shapes)::

        size = Shape(x)              n = Gather(size, 1)
        mask = Trilu(ones)           y = Add(scores, mask)

    Result::

        y = Add(scores, mask)        with mask an initializer

    The shape of a value with a static shape is a constant too. Results of more than 2^20 elements, random numbers
    and nodes with subgraphs are left.

    Why: tracers leave chains of Shape, Range, Trilu, Where, Mod and Expand behind, which TensorRT 8.2 has no importer
    for, or only in part; with static shapes all of them are numbers.
    TensorRT: all versions; what 8.2.1 lacks is in its operator table.
    Source: onnx.reference computes the values, which is ONNX's own definition of the operators.
    """
    changed = False
    for node in list(model.graph):
        results = _results(node, model)
        if results is None:
            continue
        for output, array in zip(node.outputs, results, strict=True):
            if output.uses():
                name = output.name or name_of(node)
                output.replace_all_uses_with(add_initializer(model.graph, f"{name}.folded", array))
        model.graph.remove(node, safe=True)
        changed = True
    if changed:
        drop_unused_initializers(model.graph)
    return changed


def _results(node: ir.Node, model: ir.Model) -> list[NDArray[np.generic]] | None:
    """The outputs of a node that is a number, or None."""
    import numpy as np

    if node.domain != "" or node.op_type in RANDOM_OPS or any(output.is_graph_output() for output in node.outputs):
        return None
    if any(attribute.type == ir.AttributeType.GRAPH for attribute in node.attributes.values()):
        return None
    if node.op_type == "Constant":
        array = array_of(node.outputs[0])
        return None if array is None else [array]
    if node.op_type == "Shape" and node.inputs[0] is not None:
        shape = static_shape(node.inputs[0])
        if shape is not None:
            start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(shape))
            return [np.array(shape[start:end], dtype=np.int64)]
    arrays = [array_of(value) for value in node.inputs]
    if any(array is None for array, value in zip(arrays, node.inputs, strict=True) if value is not None):
        return None
    shapes = [static_shape(output) for output in node.outputs]
    if any(shape is None or np.prod(shape) > LARGEST_RESULT for shape in shapes):
        return None
    return _evaluate(node, arrays, model.graph.opset_imports[""])


def _evaluate(node: ir.Node, arrays: list[NDArray[np.generic] | None], opset: int) -> list[NDArray[np.generic]] | None:
    import numpy as np
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    names = ["" if array is None else f"input_{index}" for index, array in enumerate(arrays)]
    proto = ir.to_proto(node)
    del proto.input[:], proto.output[:]
    proto.input.extend(names)
    proto.output.extend(f"output_{index}" for index in range(len(node.outputs)))
    graph = helper.make_graph(
        [proto],
        "constant",
        [helper.make_value_info(name, helper.make_tensor_type_proto(0, None)) for name in names if name],
        [helper.make_value_info(name, helper.make_tensor_type_proto(0, None)) for name in proto.output],
    )
    evaluator = ReferenceEvaluator(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]))
    feeds = {name: array for name, array in zip(names, arrays, strict=True) if name}
    return [np.asarray(result) for result in evaluator.run(None, feeds)]
