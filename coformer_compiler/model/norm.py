"""LayerNorm and RMSNorm."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import nn

from coformer_compiler.model.cost import Cost
from coformer_compiler.model.graph import GraphWriter, shape_of
from coformer_compiler.model.spec import NormSpec


class Norm(nn.Module):
    """Normalises the last axis: `(…, width)` to `(…, width)`.

    "layer" removes the mean over the axis and divides by the standard deviation; "rms" only divides by the root mean
    square. Both then apply gain and bias where the spec says affine ("rms": gain alone).
    """

    def __init__(self, spec: NormSpec) -> None:
        """Gain one, bias zero."""
        super().__init__()
        self.spec = spec
        self.weight = nn.Parameter(torch.ones(spec.width)) if spec.affine else None
        self.bias = nn.Parameter(torch.zeros(spec.width)) if spec.affine and spec.kind == "layer" else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise `x` `(…, width)`."""
        if self.spec.kind == "rms":
            return F.rms_norm(x, (self.spec.width,), self.weight, self.spec.eps)
        return F.layer_norm(x, (self.spec.width,), self.weight, self.bias, self.spec.eps)

    def take(self, channels: Sequence[int]) -> Norm:
        """The norm over the given channels alone."""
        spec = NormSpec(len(channels), self.spec.kind, self.spec.eps, self.spec.affine)
        made = Norm(spec)
        with torch.no_grad():
            if self.weight is not None and made.weight is not None:
                made.weight.copy_(self.weight[list(channels)])
            if self.bias is not None and made.bias is not None:
                made.bias.copy_(self.bias[list(channels)])
        return made

    def lower(self, graph: GraphWriter, name: str, x: ir.Value) -> ir.Value:
        """A LayerNormalization node, or the primitive nodes of RMSNorm (an operator of its own only from opset 23)."""
        shape = shape_of(x)
        ones = torch.ones(self.spec.width)
        weight = graph.weight(f"{name}.weight", ones if self.weight is None else self.weight)
        if self.spec.kind == "layer":
            bias = graph.weight(f"{name}.bias", ones * 0 if self.bias is None else self.bias)
            attributes = {"axis": -1, "epsilon": self.spec.eps}
            return graph.op("LayerNormalization", name, [x, weight, bias], shape, attributes)
        axes = graph.shape(f"{name}.axes", [-1])
        # As a power: ONNX Runtime knows RMSNorm by it and makes one kernel of these nodes.
        square = graph.op("Pow", f"{name}.square", [x, graph.weight(f"{name}.two", torch.tensor(2.0))], shape)
        mean = graph.op("ReduceMean", f"{name}.mean", [square, axes], (*shape[:-1], 1), {"keepdims": 1})
        eps = graph.weight(f"{name}.eps", torch.tensor(self.spec.eps))
        root = graph.op(
            "Sqrt", f"{name}.root", [graph.op("Add", f"{name}.shift", [mean, eps], (*shape[:-1], 1))], (*shape[:-1], 1)
        )
        return graph.op("Mul", f"{name}.scale", [graph.op("Div", name, [x, root], shape), weight], shape)

    def cost(self, rows: int) -> Cost:
        """Parameters only: a norm has no matrix product."""
        return Cost(0, sum(p.numel() for p in self.parameters()), 2 * rows * self.spec.width)
