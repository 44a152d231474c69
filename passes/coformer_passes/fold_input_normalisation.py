"""Fold the shift and scale of the pixels into the patch convolution."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import onnx_ir as ir

from coformer_passes.rewriting import (
    add_initializer,
    bypass,
    drop_unused_initializers,
    floats_of,
    graph_of,
    is_op,
    only_consumer,
    producer_of,
    set_constant,
)
from coformer_targets import Target

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def fold_input_normalisation(model: ir.Model, target: Target) -> bool:
    """Fold per-channel shifts and scales in front of a convolution into its weight and bias.

    Given::

        shifted = Sub(pixels, mean)
        scaled = Mul(shifted, inverse_deviation)
        patches = Conv(scaled, weight, bias)

    Result::

        patches = Conv(pixels, folded_weight, folded_bias)

    The chain may hold any number of Add, Sub, Mul and Div by constants that are one number per channel; it is one
    affine map a·x + b, so with `W'[o,c] = a[c]·W[o,c]` and `B'[o] = B[o] + Σ_c b[c]·ΣW[o,c]` the result is equal.
    Where the convolution pads and b is not zero it is not, because padding comes after the shift: no match.

    Why: two passes over the whole picture less, and uint8 pixels can travel.
    TensorRT: all versions, and ONNX Runtime.
    Source: the linearity of the convolution; this toolchain's own.
    """
    changed = False
    for node in list(model.graph):
        if is_op(node, "Conv"):
            changed |= _fold_into(node)
    return changed


class _Affine(NamedTuple):
    nodes: list[ir.Node]
    scale: NDArray[np.float64]
    shift: NDArray[np.float64]


def _fold_into(conv: ir.Node) -> bool:
    import numpy as np

    stored = floats_of(conv.inputs[1])
    has_bias = len(conv.inputs) > 2 and conv.inputs[2] is not None
    bias = floats_of(conv.inputs[2]) if has_bias else None
    if stored is None or (has_bias and bias is None) or conv.attributes.get_int("group", 1) != 1:
        return False
    weight = stored.astype(np.float64)
    chain = _affine_chain_before(conv, channels=weight.shape[1], rank=weight.ndim)
    if not chain.nodes or (_pads(conv) and chain.shift.any()):
        return False
    channel_first = (1, -1) + (1,) * (weight.ndim - 2)
    dtype = np.dtype(np.float32)
    set_constant(conv, 1, (weight * chain.scale.reshape(channel_first)).astype(dtype))
    offset = (weight * chain.shift.reshape(channel_first)).sum(axis=tuple(range(1, weight.ndim)))
    if bias is not None:
        set_constant(conv, 2, (bias + offset).astype(dtype))
    elif chain.shift.any():
        name = f"{conv.inputs[1].name}.bias"  # type: ignore[union-attr]
        conv.resize_inputs(3)
        conv.replace_input_with(2, add_initializer(graph_of(conv), name, offset.astype(dtype)))
    for node in chain.nodes:
        bypass(node)
    drop_unused_initializers(graph_of(conv))
    return True


def _affine_chain_before(conv: ir.Node, *, channels: int, rank: int) -> _Affine:
    """The affine nodes that end in the input of `conv`, and their product: scale·x + shift per channel."""
    import numpy as np

    nodes: list[ir.Node] = []
    scale, shift = np.ones(channels), np.zeros(channels)
    value = conv.inputs[0]
    while True:
        node = producer_of(value, "Add", "Sub", "Mul", "Div")
        if node is None or only_consumer(node.outputs[0]) is None:
            break
        constant = _per_channel(node.inputs[1], channels, rank)
        if constant is None or (node.op_type == "Div" and not constant.all()):
            break
        if node.op_type in ("Add", "Sub"):
            shift = shift + scale * (constant if node.op_type == "Add" else -constant)
        else:
            scale = scale * (constant if node.op_type == "Mul" else 1.0 / constant)
        nodes.append(node)
        value = node.inputs[0]
    return _Affine(nodes, scale, shift)


def _per_channel(value: ir.Value | None, channels: int, rank: int) -> NDArray[np.float64] | None:
    """The constant as one number per channel of an input of `rank` axes, or None where it is something else."""
    import numpy as np

    array = floats_of(value)
    if array is None:
        return None
    if array.size == 1:
        return np.full(channels, array.reshape(())) if array.ndim <= rank else None
    shape = (1,) * (rank - array.ndim) + array.shape
    if len(shape) != rank or shape[1] != channels or array.size != channels:
        return None
    return array.reshape(channels).astype(np.float64)


def _pads(conv: ir.Node) -> bool:
    if conv.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return True
    return any(conv.attributes.get_ints("pads", ()))
