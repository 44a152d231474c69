"""Patch merging: from one stage of the stream to the next, with a quarter of the tokens and another width."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import torch
from torch import nn

from coformer_compiler.model.cost import Cost, linear_cost
from coformer_compiler.model.graph import GraphWriter, shape_of
from coformer_compiler.model.linear import take_linear
from coformer_compiler.model.norm import Norm
from coformer_compiler.model.spec import MergeSpec

PARTS = 4


class Merge(nn.Module):
    """`(batch, tokens, embed)` to `(batch, tokens / 4, out)`: a linear over the normed 2 × 2 tokens side by side.

    It has no units and is never dropped; what a member chooses are the widths on both sides.
    """

    def __init__(self, spec: MergeSpec) -> None:
        """Fresh weights; importers and the transplant overwrite them."""
        super().__init__()
        self.spec = spec
        self.norm = Norm(spec.norm)
        self.reader = nn.Linear(PARTS * spec.embed, spec.out, bias=spec.bias)

    @classmethod
    def assemble(cls, grid: tuple[int, int], norm: Norm, reader: nn.Linear) -> Merge:
        """A merge of finished parts."""
        spec = MergeSpec(grid, reader.in_features // PARTS, norm.spec, reader.out_features, reader.bias is not None)
        with torch.device("meta"):
            made = cls(spec)
        made.norm, made.reader = norm, reader
        return made

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(batch, tokens, embed)` to `(batch, tokens / 4, out)`."""
        out: torch.Tensor = self.reader(self.norm(self.side_by_side(x)))
        return out

    def side_by_side(self, x: torch.Tensor) -> torch.Tensor:
        """`(batch, tokens, embed)` to `(batch, tokens / 4, 4 · embed)`, the left two first."""
        batch, tokens, embed = x.shape
        return x.index_select(1, self._order().to(x.device)).view(batch, tokens // PARTS, PARTS * embed)

    def _order(self) -> torch.Tensor:
        down, across = self.spec.grid
        tokens = torch.arange(down * across).view(down // 2, 2, across // 2, 2)
        return tokens.permute(0, 2, 3, 1).flatten()

    def take(self, channels_in: Sequence[int], channels_out: Sequence[int]) -> Merge:
        """Index selection of stream channels on both sides."""
        columns = [part * self.spec.embed + channel for part in range(PARTS) for channel in channels_in]
        return Merge.assemble(self.spec.grid, self.norm.take(columns), take_linear(self.reader, channels_out, columns))

    def lower(self, graph: GraphWriter, name: str, x: ir.Value) -> ir.Value:
        """Gather, Reshape, norm, MatMul."""
        batch, tokens, embed = shape_of(x)
        picked = graph.pick(f"{name}.order", x, self._order())
        shape = (batch, tokens // PARTS, PARTS * embed)
        beside = graph.op("Reshape", f"{name}.beside", [picked, graph.shape(f"{name}.shape", shape)], shape)
        normed = self.norm.lower(graph, f"{name}.norm", beside)
        return graph.linear(f"{name}.reader", normed, self.reader.weight, self.reader.bias)

    def cost(self, tokens: int) -> Cost:
        """Norm and linear; `tokens` are those before."""
        rows, spec = tokens // PARTS, self.spec
        return self.norm.cost(rows) + linear_cost(rows, PARTS * spec.embed, spec.out, spec.bias)
