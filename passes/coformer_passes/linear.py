"""Linear layers as graphs write them: MatMul, MatMul and Add, or Gemm, with constant weight and bias."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import onnx_ir as ir

from coformer_passes.rewriting import floats_of, is_op, only_consumer, producer_of, set_constant

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Linear(NamedTuple):
    """x·W + b.

    Attributes:
        product: the MatMul or Gemm.
        add: the node whose input `bias_index` is the bias (the Add, or the Gemm itself), None without a bias.
        bias_index: see `add`.
        weight: (in, out) float32, whichever way the graph stores it.
        bias: (out,) float32, None without one.
        output: the value that holds x·W + b.
    """

    product: ir.Node
    add: ir.Node | None
    bias_index: int
    weight: NDArray[np.float32]
    bias: NDArray[np.float32] | None
    output: ir.Value


def linear_from_product(product: ir.Node) -> Linear | None:
    """The linear layer of a MatMul or Gemm with a constant 2-D weight, with the bias behind it if there is one."""
    if is_op(product, "Gemm"):
        return _linear_from_gemm(product)
    if not is_op(product, "MatMul"):
        return None
    weight = floats_of(product.inputs[1])
    if weight is None or weight.ndim != 2:
        return None
    add = only_consumer(product.outputs[0])
    if add is not None and is_op(add, "Add"):
        for index in (0, 1):
            bias = floats_of(add.inputs[index])
            if bias is not None and add.inputs[1 - index] is product.outputs[0] and bias.shape == weight.shape[1:]:
                return Linear(product, add, index, weight, bias, add.outputs[0])
    return Linear(product, None, 0, weight, None, product.outputs[0])


def linear_that_makes(value: ir.Value) -> Linear | None:
    """The linear layer whose output `value` is."""
    node = producer_of(value, "MatMul", "Gemm")
    if node is None:
        add = producer_of(value, "Add")
        if add is None:
            return None
        products = [producer_of(each, "MatMul") for each in add.inputs]
        node = next((each for each in products if each is not None), None)
    linear = None if node is None else linear_from_product(node)
    return linear if linear is not None and linear.output is value else None


def set_weight_and_bias(linear: Linear, weight: NDArray[np.floating], bias: NDArray[np.floating] | None) -> None:
    """Write weight (in, out) and bias (out,) back as float32; a bias of None leaves what is there."""
    import numpy as np

    trans_b: int = linear.product.attributes.get_int("transB", 0)
    transposed = is_op(linear.product, "Gemm") and trans_b == 1
    stored = weight.T if transposed else weight
    set_constant(linear.product, 1, np.ascontiguousarray(stored, dtype=np.float32))
    if linear.add is not None and bias is not None:
        set_constant(linear.add, linear.bias_index, bias.astype(np.float32))


def _linear_from_gemm(gemm: ir.Node) -> Linear | None:
    weight = floats_of(gemm.inputs[1])
    attributes = gemm.attributes
    plain = attributes.get_float("alpha", 1.0) == 1.0 and attributes.get_float("beta", 1.0) == 1.0
    if weight is None or not plain or attributes.get_int("transA", 0) != 0:
        return None
    if attributes.get_int("transB", 0):
        weight = weight.T
    if len(gemm.inputs) < 3 or gemm.inputs[2] is None:
        return Linear(gemm, None, 0, weight, None, gemm.outputs[0])
    bias = floats_of(gemm.inputs[2])
    if bias is None or bias.shape != weight.shape[1:]:
        return None
    return Linear(gemm, gemm, 2, weight, bias, gemm.outputs[0])
