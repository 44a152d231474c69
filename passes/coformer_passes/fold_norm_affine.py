"""Fold gain and bias of a norm into the linear layers behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from coformer_passes.linear import Linear, linear_from_product, set_weight_and_bias
from coformer_passes.rewriting import drop_unused_initializers, floats_of, is_op, set_constant
from coformer_targets import Target

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def fold_norm_affine(model: ir.Model, target: Target) -> bool:
    """Fold LayerNormalization's gain and bias into all linear layers that read it.

    Given::

        h = LayerNormalization(x, gain, bias)
        q = Add(MatMul(h, Wq), bq)        k = Add(MatMul(h, Wk), bk)

    Result::

        h = LayerNormalization(x, ones)
        q = Add(MatMul(h, Wq'), bq')      k = Add(MatMul(h, Wk'), bk')      W' = diag(gain)·W, b' = b + bias·W

    Only where every reader is such a linear layer (MatMul with a constant weight, or Gemm); a bias that is not zero
    also needs each reader to add one of its own. The sum over the inputs is formed in float64.

    Why: a norm that is written out costs two passes over the tokens less.
    TensorRT: all versions; below 8.6 decompose_layer_norm then writes no Mul and no Add.
    Source: the linearity of the layer; SliceGPT (Ashkboos et al. 2024), section 3, uses the same identity.
    """
    changed = False
    for node in list(model.graph):
        if is_op(node, "LayerNormalization") and node.attributes.get_int("axis", -1) in _last_axis(node):
            changed |= _fold(node)
    if changed:
        drop_unused_initializers(model.graph)
    return changed


def _last_axis(norm: ir.Node) -> tuple[int, ...]:
    value = norm.inputs[0]
    rank = None if value is None or value.shape is None else len(value.shape)
    return (-1,) if rank is None else (-1, rank - 1)


def _fold(norm: ir.Node) -> bool:
    import numpy as np

    gain = floats_of(norm.inputs[1])
    has_bias = len(norm.inputs) > 2 and norm.inputs[2] is not None
    bias = floats_of(norm.inputs[2]) if has_bias else np.zeros_like(gain) if gain is not None else None
    if gain is None or bias is None or gain.ndim != 1 or norm.outputs[0].is_graph_output():
        return False
    if (gain == 1.0).all() and not has_bias:
        return False
    linears = _readers(norm.outputs[0])
    if linears is None or (bias.any() and any(each.bias is None for each in linears)):
        return False
    for each in linears:
        _absorb(each, gain, bias)
    set_constant(norm, 1, np.ones(gain.shape, dtype=np.float32))
    norm.resize_inputs(2)
    return True


def _readers(value: ir.Value) -> list[Linear] | None:
    """The linear layers that read the value, or None where something else does too, or nothing."""
    linears = []
    for node, index in value.uses():
        linear = linear_from_product(node) if index == 0 else None
        if linear is None:
            return None
        linears.append(linear)
    return linears or None


def _absorb(linear: Linear, gain: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
    import numpy as np

    shifted = None
    if linear.bias is not None and bias.any():
        shifted = linear.bias + np.einsum("i,ij->j", bias, linear.weight, dtype=np.float64)
    set_weight_and_bias(linear, linear.weight * gain[:, None], shifted)
