"""Write a split into a sequence, and the picking from it, as a plain split."""

from __future__ import annotations

import onnx_ir as ir

from coformer_passes.rewriting import add_initializer, array_of, drop_unused_initializers, is_op, name_of, static_shape
from coformer_targets import Target


def unpack_sequences(model: ir.Model, target: Target) -> bool:
    """Replace SplitToSequence and the SequenceAt nodes behind it by one Split.

    Given::

        parts = SplitToSequence<axis = -1>(x, 8)      q = SequenceAt(parts, 0)      k = SequenceAt(parts, 1)

    Result::

        q, k = Split<axis = -1>(x, {8, 8})

    Only where all that reads the sequence is SequenceAt with a constant position.

    Why: torch.onnx.export writes `chunk` and `split` so where it is not asked to optimise; TensorRT has no sequences.
    TensorRT: all versions; for ONNX Runtime a Split is one node instead of a copy per part.
    Source: onnx-tensorrt docs/operators.md (no version has an importer for sequences); the operators' definitions.
    """
    changed = False
    for node in list(model.graph):
        if is_op(node, "SplitToSequence"):
            changed |= _unpack(node)
    if changed:
        drop_unused_initializers(model.graph)
    return changed


def _unpack(node: ir.Node) -> bool:
    import numpy as np

    source, sequence = node.inputs[0], node.outputs[0]
    assert source is not None
    shape = static_shape(source)
    readers = [use.node for use in sequence.uses()]
    positions = [array_of(reader.inputs[1]) if is_op(reader, "SequenceAt") else None for reader in readers]
    if shape is None or sequence.is_graph_output() or any(position is None for position in positions):
        return False
    axis = node.attributes.get_int("axis", 0)
    sizes = _sizes(node, shape[axis])
    if sizes is None:
        return False
    graph, name = node.graph, name_of(node)
    assert isinstance(graph, ir.Graph)
    outputs = [ir.Value(name=f"{name}.{number}", type=source.type) for number in range(len(sizes))]
    for output, size in zip(outputs, sizes, strict=True):
        axes = list(shape)
        axes[axis] = size
        output.shape = ir.Shape(axes)
    value = add_initializer(graph, f"{name}.sizes", np.array(sizes, dtype=np.int64))
    graph.insert_before(node, ir.node("Split", [source, value], {"axis": axis}, outputs=outputs, name=name))
    for reader, position in zip(readers, positions, strict=True):
        assert position is not None
        part, old = outputs[int(position.reshape(()).astype(int))], reader.outputs[0]
        if old.is_graph_output():
            graph.insert_before(reader, ir.node("Identity", [part], outputs=[replacement := ir.Value(type=part.type)]))
            kept, replacement.shape = old.name, part.shape
            old.replace_all_uses_with(replacement, replace_graph_outputs=True)
            old.name, replacement.name = None, kept
        else:
            old.replace_all_uses_with(part)
    graph.remove([*readers, node], safe=True)
    return True


def _sizes(node: ir.Node, length: int) -> list[int] | None:
    """How long each part is; None where that is computed, or the axis is dropped."""
    if len(node.inputs) < 2 or node.inputs[1] is None:
        return [1] * length if node.attributes.get_int("keepdims", 1) else None
    split = array_of(node.inputs[1])
    if split is None:
        return None
    if split.ndim:
        return [int(size) for size in split]
    size = int(split.reshape(()).astype(int))
    return [min(size, length - start) for start in range(0, length, size)]
