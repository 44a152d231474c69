"""Writes ONNX nodes: names, shapes and initializers around `onnx_ir.tape`.

The compiler writes its graphs at opset 20, IR version 10, with static shapes; the passes lower them from there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.tape import Tape

from coformer_compiler import __version__

OPSET = 20
IR_VERSION = 10

Attributes = Mapping[str, int | float | str | Sequence[int]]


class GraphWriter:
    """Collects the nodes of one graph. Every node and value is named after the block that wrote it."""

    def __init__(self) -> None:
        """Start an empty graph."""
        self.tape = Tape()
        self.inputs: list[ir.Value] = []
        self._shared: dict[tuple[tuple[int, ...], bytes], ir.Value] = {}

    def input(self, name: str, dtype: ir.DataType, shape: Sequence[int]) -> ir.Value:
        """A graph input of static shape."""
        value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
        self.inputs.append(value)
        return value

    def weight(self, name: str, tensor: torch.Tensor) -> ir.Value:
        """A float32 initializer with the tensor's contents and shape; a scalar becomes `(1,)`."""
        array = np.ascontiguousarray(tensor.detach().cpu().numpy().astype(np.float32, copy=False))
        return self.tape.initializer(ir.Tensor(array, name=name))

    def shared_weight(self, name: str, tensor: torch.Tensor) -> ir.Value:
        """Like `weight`, but one initializer for all tensors of equal contents, under the name of the first."""
        array = np.ascontiguousarray(tensor.detach().cpu().numpy().astype(np.float32, copy=False))
        key = (array.shape, hashlib.sha256(array.tobytes()).digest())
        if key not in self._shared:
            self._shared[key] = self.weight(name, tensor)
        return self._shared[key]

    def shape(self, name: str, numbers: Sequence[int]) -> ir.Value:
        """A 1-D int64 initializer, as Reshape, Slice and the like take it."""
        return self.tape.initializer(ir.Tensor(np.asarray(numbers, np.int64), name=name))

    def int32(self, name: str, numbers: Sequence[int] | np.ndarray) -> ir.Value:
        """An int32 initializer, to compute with."""
        return self.tape.initializer(ir.Tensor(np.asarray(numbers, np.int32), name=name))

    def op(
        self,
        kind: str,
        name: str,
        inputs: Sequence[ir.Value],
        shape: Sequence[int],
        attributes: Attributes | None = None,
        dtype: ir.DataType = ir.DataType.FLOAT,
    ) -> ir.Value:
        """One node with one output of a known static shape."""
        output = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
        return self.tape.op(kind, inputs, dict(attributes or {}), name=name, output=output)

    def split(self, name: str, x: ir.Value, parts: Sequence[int]) -> Sequence[ir.Value]:
        """Split the last axis into parts of the given sizes."""
        lead = shape_of(x)[:-1]
        outputs = [
            ir.Value(name=f"{name}.{i}", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape((*lead, part)))
            for i, part in enumerate(parts)
        ]
        sizes = self.shape(f"{name}.sizes", parts)
        return self.tape.op_multi_out("Split", [x, sizes], {"axis": -1}, outputs=outputs, name=name)

    def pick(self, name: str, x: ir.Value, tokens: torch.Tensor) -> ir.Value:
        """The given tokens (axis 1) of `(batch, tokens, width)`, in the given order."""
        batch, _, width = shape_of(x)
        indices = self.shape(f"{name}.tokens", tokens.tolist())
        return self.op("Gather", name, [x, indices], (batch, len(tokens), width), {"axis": 1})

    def linear(self, name: str, x: ir.Value, weight: torch.Tensor, bias: torch.Tensor | None) -> ir.Value:
        """`x @ weightᵀ + bias` for a torch weight `(out, in)`; the initializer is stored as `(in, out)`."""
        shape = (*shape_of(x)[:-1], weight.shape[0])
        product = self.op("MatMul", name, [x, self.weight(f"{name}.weight", weight.T)], shape)
        if bias is None:
            return product
        return self.op("Add", f"{name}.add", [product, self.weight(f"{name}.bias", bias)], shape)

    def model(self, name: str, output: ir.Value, output_name: str) -> ir.Model:
        """The finished model with `output` as its only output, renamed."""
        output.name = output_name
        graph = ir.Graph(
            inputs=self.inputs,
            outputs=[output],
            nodes=self.tape.nodes,
            initializers=self.tape.initializers,
            opset_imports={"": OPSET},
            name=name,
        )
        return ir.Model(graph, ir_version=IR_VERSION, producer_name="coformer", producer_version=__version__)


def shape_of(value: ir.Value) -> tuple[int, ...]:
    """The static shape of a value; every value that we write has one."""
    assert value.shape is not None
    return tuple(int(dim) for dim in value.shape.numpy())
