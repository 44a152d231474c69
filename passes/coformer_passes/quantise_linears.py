"""Compute linear layers in 8-bit integers, the scale of their input found as they run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from coformer_passes.linear import Linear, linear_from_product
from coformer_passes.rewriting import (
    add_initializer,
    add_node,
    array_of,
    drop_unused_initializers,
    graph_of,
    is_op,
    name_of,
    static_shape,
)
from coformer_targets import Target

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LEAST_WEIGHTS = 1024
"""Smaller layers gain nothing: finding the scale costs a pass over the input."""
PRECISION, FLOAT32 = "coformer.precision", "float32"
"""Key and value in a node's metadata: this layer stays as it is."""
ZERO = 128
"""The byte that means 0 in every quantised weight."""


def quantise_linears(model: ir.Model, target: Target) -> bool:
    """Replace the products of linear layers by integer ones, where the target's precision is int8.

    Given, W constant::

        y = Add(MatMul(x, W), b)

    Result, with W = (Wq - 128) · w by column, Wq uint8::

        xq, x_scale, x_zero = DynamicQuantizeLinear(x)
        product = Cast<to = FLOAT>(MatMulInteger(xq, Wq, x_zero, 128))
        y = Add(Mul(product, Mul(x_scale, w)), b)

    Layers that read the same value share its quantisation. The patch convolution, attention's products of two
    computed values, norms and softmax stay in float32, and so does a layer that reads the residual stream itself,
    before a norm: one outlier there sets the scale for everything, and the error goes into every later layer.

    Why: integer products are faster, most where the processor has dot products of bytes (VNNI, NEON's UDOT), and
    weights take a quarter of the memory. Why not int8 weights: x86 before VNNI adds products of unsigned and signed
    bytes in pairs within 16 bits, which saturate, so the graph would answer otherwise there than where it was checked.
    ONNX Runtime computes two unsigned sides exactly everywhere, and with VNNI by the same kernel.
    TensorRT: none; ONNX Runtime fuses the four nodes into its DynamicQuantizeMatMul.
    Source: ONNX's DynamicQuantizeLinear and MatMulInteger; Jacob et al. 2018, section 2, for the affine scheme.
    """
    if target.engine != "onnxruntime" or target.precisions[0] != "int8":
        return False
    import numpy as np

    found = [linear for node in quantisable(model) if (linear := linear_from_product(node)) is not None]
    if not found:
        return False
    known: dict[ir.Value, tuple[ir.Value, ir.Value, ir.Value]] = {}
    w_zero = add_initializer(model.graph, "weights.zero", np.array(ZERO, np.uint8))
    for linear in found:
        _quantise(linear, known, w_zero)
    drop_unused_initializers(model.graph)
    return True


def quantisable(model: ir.Model) -> list[ir.Node]:
    """The products that int8 would replace."""
    return [node for node in model.graph if _fits(node)]


def quantised(weight: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A weight (in, out) as uint8 and one scale per column (out,): weight ≈ (uint8 - ZERO) · scale."""
    import numpy as np

    scale = np.abs(weight).max(axis=0) / 127.0
    scale = np.where(scale == 0.0, 1.0, scale).astype(np.float32)
    return (ZERO + np.clip(np.rint(weight / scale), -127, 127)).astype(np.uint8), scale


def _fits(node: ir.Node) -> bool:
    if not is_op(node, "MatMul") or node.metadata_props.get(PRECISION) == FLOAT32 or _is_stream(node.inputs[0]):
        return False
    linear = linear_from_product(node)
    return linear is not None and linear.weight.size >= LEAST_WEIGHTS


def _is_stream(value: ir.Value | None) -> bool:
    """Whether the value is the sum of two computed ones, as the residual stream is."""
    producer = None if value is None else value.producer()
    if producer is None or not is_op(producer, "Add"):
        return False
    return all(each is not None and array_of(each) is None for each in producer.inputs)


def _quantise(linear: Linear, known: dict[ir.Value, tuple[ir.Value, ir.Value, ir.Value]], w_zero: ir.Value) -> None:
    product = linear.product
    x, old = product.inputs[0], product.outputs[0]
    assert x is not None
    name, graph = name_of(product), graph_of(product)
    if x not in known:
        known[x] = _quantised_input(product, x)
    xq, x_scale, x_zero = known[x]
    weight, scale = quantised(linear.weight)
    wq = add_initializer(graph, f"{name}.uint8", weight)
    w_scale = add_initializer(graph, f"{name}.scale", scale)
    whole = add_node(product, "MatMulInteger", [xq, wq, x_zero, w_zero], f"{name}.integers", like=old)
    whole.type = ir.TensorType(ir.DataType.INT32)
    single = add_node(product, "Cast", [whole], f"{name}.single", like=old, attributes={"to": int(ir.DataType.FLOAT)})
    factor = add_node(product, "Mul", [x_scale, w_scale], f"{name}.factor", like=old, shape=scale.shape)
    result = add_node(product, "Mul", [single, factor], f"{name}.rescaled", like=old, shape=static_shape(old))
    was_output, kept = old.is_graph_output(), old.name
    old.replace_all_uses_with(result, replace_graph_outputs=True)
    graph.remove(product, safe=True)
    if was_output:
        result.name = kept


def _quantised_input(before: ir.Node, x: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
    def output(suffix: str, dtype: ir.DataType, shape: ir.Shape | None) -> ir.Value:
        return ir.Value(name=f"{x.name}.{suffix}", type=ir.TensorType(dtype), shape=shape)

    outputs = (
        output("uint8", ir.DataType.UINT8, x.shape),
        output("scale", ir.DataType.FLOAT, ir.Shape(())),
        output("zero", ir.DataType.UINT8, ir.Shape(())),
    )
    node = ir.node("DynamicQuantizeLinear", [x], outputs=list(outputs), name=f"{x.name}.quantised")
    graph_of(before).insert_before(before, node)
    return outputs
