"""Stream to features: which tokens the head sees, and the final norm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir
import torch
from torch import nn

from coformer_compiler.model.cost import Cost
from coformer_compiler.model.graph import GraphWriter, shape_of
from coformer_compiler.model.norm import Norm
from coformer_compiler.model.spec import PoolSpec


class Pool(nn.Module):
    """Tokens `(batch, tokens, embed)` to features `(batch, features)`.

    It is `finish(norm(rows(x)))`, where `rows` picks or averages tokens and `finish` averages or lays side by side.
    """

    def __init__(self, spec: PoolSpec) -> None:
        """A final norm of gain one and bias zero."""
        super().__init__()
        self.spec = spec
        self.norm = None if spec.norm is None else Norm(spec.norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(batch, tokens, embed)` to `(batch, features)`."""
        rows = self.rows(x)
        return self.finish(rows if self.norm is None else self.norm(rows))

    def rows(self, x: torch.Tensor) -> torch.Tensor:
        """The vectors that the final norm sees, `(batch, rows, width)`: linear in the tokens."""
        if self.spec.kind == "prefix":
            return x[:, : self.spec.count]
        kept = x[:, self.spec.count :]
        return kept if self.spec.norm_first else kept.mean(1, keepdim=True)

    def finish(self, rows: torch.Tensor) -> torch.Tensor:
        """Normed rows to features."""
        return rows.flatten(1) if self.spec.kind == "prefix" else rows.mean(1)

    def take(self, channels: Sequence[int]) -> Pool:
        """The pool over the given channels alone."""
        norm = None if self.norm is None else self.norm.take(channels)
        made = Pool(replace(self.spec, norm=None if norm is None else norm.spec))
        made.norm = norm
        return made

    def feature_columns(self, channels: Sequence[int], embed: int) -> list[int]:
        """Columns of the features that the given stream channels become."""
        copies = self.spec.count if self.spec.kind == "prefix" else 1
        return [copy * embed + channel for copy in range(copies) for channel in channels]

    def lower(self, graph: GraphWriter, name: str, x: ir.Value) -> ir.Value:
        """Slice or ReduceMean around the norm; the result is `(batch, features)`."""
        batch, tokens, embed = shape_of(x)
        first, last = (0, self.spec.count) if self.spec.kind == "prefix" else (self.spec.count, tokens)
        if (first, last) != (0, tokens):
            bounds = [graph.shape(f"{name}.{key}", [n]) for key, n in (("first", first), ("last", last), ("axis", 1))]
            x = graph.op("Slice", f"{name}.kept", [x, *bounds], (batch, last - first, embed))
        if self.norm is not None and self.spec.norm_first:
            x = self.norm.lower(graph, f"{name}.norm", x)
        if self.spec.kind == "mean":
            axes = graph.shape(f"{name}.axes", [1])
            x = graph.op("ReduceMean", f"{name}.mean", [x, axes], (batch, embed), {"keepdims": 0})
        if self.norm is not None and not self.spec.norm_first:
            x = self.norm.lower(graph, f"{name}.norm", x)
        if self.spec.kind == "mean":
            return x
        width = embed * self.spec.count
        return graph.op("Reshape", f"{name}.flat", [x, graph.shape(f"{name}.shape", [batch, width])], (batch, width))

    def cost(self, tokens: int) -> Cost:
        """The norm alone."""
        return Cost() if self.norm is None else self.norm.cost(tokens)
