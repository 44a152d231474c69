"""One residual sub-block: `shortcut(x) + branch(norm(x))`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir
import torch
from torch import nn

from coformer_compiler.model.attention import Attention
from coformer_compiler.model.cost import Cost, linear_cost
from coformer_compiler.model.graph import GraphWriter, shape_of
from coformer_compiler.model.mlp import Mlp
from coformer_compiler.model.norm import Norm
from coformer_compiler.model.spec import AttentionSpec, ResidualSpec

Branch = Attention | Mlp


class Residual(nn.Module):
    """A pre-norm sub-block over `(batch, tokens, embed)`.

    The shortcut is the identity, or, in members whose stream has another basis at every norm, a small matrix that moves
    it from this sub-block's basis to the next one's.
    """

    def __init__(self, spec: ResidualSpec) -> None:
        """Fresh weights; the shortcut matrix, if any, starts as the identity."""
        super().__init__()
        self.layer = spec.layer
        self.norm = Norm(spec.norm)
        self.branch: Branch = Attention(spec.branch) if isinstance(spec.branch, AttentionSpec) else Mlp(spec.branch)
        self.shortcut: nn.Linear | None = None
        if spec.shortcut:
            self.shortcut = nn.Linear(spec.branch.embed, spec.branch.out, bias=False)
            nn.init.eye_(self.shortcut.weight)

    @classmethod
    def assemble(cls, layer: int, norm: Norm, branch: Branch, shortcut: nn.Linear | None = None) -> Residual:
        """A sub-block of finished parts."""
        with torch.device("meta"):
            made = cls(ResidualSpec(layer, norm.spec, branch.spec))
        made.norm, made.branch, made.shortcut = norm, branch, shortcut
        return made

    @property
    def spec(self) -> ResidualSpec:
        """The shapes as they are now."""
        return ResidualSpec(self.layer, self.norm.spec, self.branch.spec, self.shortcut is not None)

    @property
    def kind(self) -> str:
        """Which branch this is: "attention" or "mlp"."""
        return self.spec.kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(batch, tokens, embed)` to the same, or to the branch's output width."""
        written: torch.Tensor = self.branch(self.norm(x))
        return self.skip(x) + written

    def skip(self, x: torch.Tensor) -> torch.Tensor:
        """The shortcut alone."""
        if self.shortcut is None:
            return x
        moved: torch.Tensor = self.shortcut(x)
        return moved

    def take(self, units: Sequence[int], channels: Sequence[int]) -> Residual:
        """Index selection of units (heads or neurons) and stream channels.

        Raises:
            ValueError: if the sub-block has a shortcut matrix: its two sides have no channels in common.
        """
        if self.shortcut is not None:
            raise ValueError(f"layer {self.layer} has a shortcut matrix and no channels to select")
        return Residual.assemble(self.layer, self.norm.take(channels), self.branch.take(units, channels, channels))

    def lower(self, graph: GraphWriter, name: str, x: ir.Value) -> ir.Value:
        """Norm, branch and the sum with the shortcut."""
        branch = self.branch.lower(graph, name, self.norm.lower(graph, f"{name}.norm", x))
        skip = x if self.shortcut is None else graph.linear(f"{name}.shortcut", x, self.shortcut.weight, None)
        return graph.op("Add", f"{name}.residual", [skip, branch], shape_of(branch))

    def cost(self, tokens: int) -> Cost:
        """Norm, branch and shortcut; the stream stays alive beside the branch for the sum."""
        total = self.norm.cost(tokens) + self.branch.cost(tokens)
        total = replace(total, peak_elements=total.peak_elements + tokens * self.branch.spec.embed)
        if self.shortcut is not None:
            total += linear_cost(tokens, self.shortcut.in_features, self.shortcut.out_features, bias=False)
        return total
