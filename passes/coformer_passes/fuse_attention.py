"""Write attention as the one operator that ONNX Runtime has for it."""

from __future__ import annotations

import onnx_ir as ir

from coformer_passes.rewriting import (
    drop_unused_initializers,
    graph_of,
    is_op,
    name_of,
    only_consumer,
    producer_of,
    scalar_of,
    static_shape,
    take_over,
)
from coformer_targets import Target

DOMAIN = "com.microsoft"
TO_HEADS, TO_COLUMNS, FROM_HEADS = (0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3)


def fuse_attention(model: ir.Model, target: Target) -> bool:
    """Replace split into heads, scores, softmax, weighted sum and merge of heads by `MultiHeadAttention`.

    Given, for q, k, v of shape (batch, tokens, heads × head dim), each behind a Reshape to (batch, tokens, heads, head
    dim), and a constant scalar s::

        Q = Transpose<perm = 0, 2, 1, 3>(q)      K = Transpose<perm = 0, 2, 3, 1>(k)     V like Q, of v
        p = Softmax<axis = -1>(MatMul(Mul(Q, s), K))
        y = Reshape(Transpose<perm = 0, 2, 1, 3>(MatMul(p, V)), (batch, tokens, heads × head dim))

    Result::

        y = com.microsoft.MultiHeadAttention<num_heads, scale = s>(q, k, v)

    Attention with a mask or a bias on the scores stays as it is.

    Why: ONNX Runtime walks over blocks of the scores, which stay in the cache, and copies no transposed heads.
    TensorRT: none; it knows the written-out form, and no operators of others.
    Source: benchmarks/fused_attention.py, processor time of four-layer members on one x86-64 core.
    """
    changed = False
    for node in list(model.graph):
        if is_op(node, "Softmax"):
            changed |= _fuse(model.graph, node)
    if changed:
        drop_unused_initializers(model.graph)
    return changed


def _fuse(graph: ir.Graph, softmax: ir.Node) -> bool:
    scores = producer_of(softmax.inputs[0], "MatMul")
    mixed = only_consumer(softmax.outputs[0])
    if scores is None or not is_op(mixed, "MatMul") or only_consumer(scores.outputs[0]) is not softmax:
        return False
    assert mixed is not None
    shape = static_shape(softmax.outputs[0])
    if shape is None or len(shape) != 4 or softmax.attributes.get_int("axis", -1) not in (-1, 3):
        return False
    flat = _merged(mixed)
    query, scale = _scaled(scores.inputs[0])
    parts = [_split(query, TO_HEADS), _split(scores.inputs[1], TO_COLUMNS), _split(mixed.inputs[1], TO_HEADS)]
    if flat is None or mixed.inputs[0] is not softmax.outputs[0] or any(part is None for part in parts):
        return False
    if len({static_shape(part) for part in parts if part is not None}) != 1:
        return False  # of other numbers of tokens or other head dims, which is rare and was not measured
    result = flat.outputs[0]
    name = f"{name_of(softmax)}.fused"
    output = ir.Value(name=name, shape=result.shape, type=result.type)
    attributes = {"num_heads": shape[1], "scale": scale}
    fused = ir.node("MultiHeadAttention", parts, attributes, domain=DOMAIN, outputs=[output], name=name)
    graph.insert_before(flat, fused)
    graph.opset_imports[DOMAIN] = 1
    transposed = flat.inputs[0]
    take_over(flat, output)
    _remove_unread(transposed)
    return True


def _scaled(value: ir.Value | None) -> tuple[ir.Value | None, float]:
    """A value without the constant scalar that it was multiplied by, and the scalar."""
    node = producer_of(value, "Mul")
    if node is None or value is None or only_consumer(value) is None:
        return value, 1.0
    for index in (0, 1):
        scalar = scalar_of(node.inputs[1 - index])
        if scalar is not None:
            return node.inputs[index], scalar
    return value, 1.0


def _split(heads: ir.Value | None, order: tuple[int, ...]) -> ir.Value | None:
    """`(batch, tokens, heads × head dim)` of what Reshape and Transpose have made into heads."""
    transpose = producer_of(heads, "Transpose")
    if transpose is None or tuple(transpose.attributes.get_ints("perm", ())) != order:
        return None
    reshape = producer_of(transpose.inputs[0], "Reshape")
    if reshape is None or reshape.inputs[0] is None:
        return None
    whole, parted = static_shape(reshape.inputs[0]), static_shape(reshape.outputs[0])
    if whole is None or parted is None or len(whole) != 3 or len(parted) != 4:
        return None
    return reshape.inputs[0] if whole == (*parted[:2], parted[2] * parted[3]) else None


def _merged(mixed: ir.Node) -> ir.Node | None:
    """The Reshape that puts the heads side by side again, behind a Transpose; each read by the next alone."""
    transpose = only_consumer(mixed.outputs[0])
    if transpose is None or not is_op(transpose, "Transpose"):
        return None
    if tuple(transpose.attributes.get_ints("perm", ())) != FROM_HEADS:
        return None
    reshape = only_consumer(transpose.outputs[0])
    if reshape is None or not is_op(reshape, "Reshape"):
        return None
    parted, whole = static_shape(transpose.outputs[0]), static_shape(reshape.outputs[0])
    fits = parted is not None and whole == (*parted[:2], parted[2] * parted[3])
    return reshape if fits else None


def _remove_unread(value: ir.Value | None) -> None:
    """Remove the node that makes the value, where nothing reads it, and then what only it has read."""
    node = None if value is None else value.producer()
    if node is None or any(output.uses() or output.is_graph_output() for output in node.outputs):
        return
    inputs = list(node.inputs)
    graph_of(node).remove(node, safe=True)
    for each in inputs:
        _remove_unread(each)
