"""One residual sub-block: `shortcut(x) + branch(norm(x))`, post-norm `shortcut(norm(x)) + branch(norm(x))`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import onnx_ir as ir
import torch
from torch import nn

from coformer_compiler.model.attention import Attention
from coformer_compiler.model.cost import Cost, linear_cost
from coformer_compiler.model.cross_attention import CrossAttention
from coformer_compiler.model.graph import GraphWriter, shape_of
from coformer_compiler.model.memory import LoweredMemory, Memory
from coformer_compiler.model.mlp import Mlp
from coformer_compiler.model.norm import Norm
from coformer_compiler.model.padding import Padding
from coformer_compiler.model.spec import AttentionSpec, BranchSpec, CrossAttentionSpec, Kind, ResidualSpec

Branch = Attention | CrossAttention | Mlp


def branch_from_spec(spec: BranchSpec) -> Branch:
    """A branch of fresh weights."""
    if isinstance(spec, AttentionSpec):
        return Attention(spec)
    return CrossAttention(spec) if isinstance(spec, CrossAttentionSpec) else Mlp(spec)


class Residual(nn.Module):
    """A sub-block over `(batch, tokens, embed)`; see `ResidualSpec` for pre-norm and post-norm.

    The shortcut is the identity, or, in members whose stream has another basis at every norm, a small matrix that moves
    it from this sub-block's basis to the next one's.
    """

    def __init__(self, spec: ResidualSpec) -> None:
        """Fresh weights; the shortcut matrix, if any, starts as the identity."""
        super().__init__()
        self.layer, self.post_norm = spec.layer, spec.post_norm
        self.norm = None if spec.norm is None else Norm(spec.norm)
        self.branch: Branch = branch_from_spec(spec.branch)
        self.shortcut: nn.Linear | None = None
        if spec.shortcut:
            self.shortcut = nn.Linear(spec.branch.embed, spec.branch.out, bias=False)
            # On the meta device torch.eye is a decomposition, and imports the whole compiler of torch.
            if not self.shortcut.weight.is_meta:
                nn.init.eye_(self.shortcut.weight)

    @classmethod
    def assemble(
        cls,
        layer: int,
        norm: Norm | None,
        branch: Branch,
        shortcut: nn.Linear | None = None,
        *,
        post_norm: bool = False,
    ) -> Residual:
        """A sub-block of finished parts."""
        with torch.device("meta"):
            made = cls(ResidualSpec(layer, None if norm is None else norm.spec, branch.spec, post_norm=post_norm))
        made.norm, made.branch, made.shortcut = norm, branch, shortcut
        return made

    @property
    def spec(self) -> ResidualSpec:
        """The shapes as they are now."""
        norm = None if self.norm is None else self.norm.spec
        return ResidualSpec(self.layer, norm, self.branch.spec, self.shortcut is not None, self.post_norm)

    @property
    def kind(self) -> Kind:
        """Which branch this is."""
        return self.spec.kind

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None, memory: Memory | None = None) -> torch.Tensor:
        """`(batch, tokens, embed)` to the same, or to the branch's output width.

        `mask` `(batch, tokens)` is false for padding; `memory` is what an encoder has left.
        """
        normed = self.normed(x)
        written: torch.Tensor = self.branch(normed, mask, memory)
        return self.skip(x, normed) + written

    def normed(self, x: torch.Tensor) -> torch.Tensor:
        """What the branch reads."""
        return x if self.norm is None else self.norm(x)

    def carried(self, x: torch.Tensor, normed: torch.Tensor) -> torch.Tensor:
        """What the shortcut starts from: the stream, or in post-norm models the normed stream."""
        return normed if self.post_norm else x

    def skip(self, x: torch.Tensor, normed: torch.Tensor) -> torch.Tensor:
        """The shortcut alone."""
        carried = self.carried(x, normed)
        if self.shortcut is None:
            return carried
        moved: torch.Tensor = self.shortcut(carried)
        return moved

    def take(
        self, units: Sequence[int], channels: Sequence[int], channels_of_memory: Sequence[int] | None = None
    ) -> Residual:
        """Index selection of units (heads or neurons) and stream channels, and of channels of a memory that is read.

        Raises:
            ValueError: if the sub-block has a shortcut matrix: its two sides have no channels in common.
        """
        if self.shortcut is not None:
            raise ValueError(f"layer {self.layer} has a shortcut matrix and no channels to select")
        norm = None if self.norm is None else self.norm.take(channels)
        if isinstance(self.branch, CrossAttention):
            assert channels_of_memory is not None, "a decoder behind an encoder"
            branch: Branch = self.branch.take(units, channels, channels, channels_of_memory)
        else:
            branch = self.branch.take(units, channels, channels)
        return Residual.assemble(self.layer, norm, branch, post_norm=self.post_norm)

    def lower(
        self,
        graph: GraphWriter,
        name: str,
        x: ir.Value,
        padding: Padding | None = None,
        memory: LoweredMemory | None = None,
    ) -> ir.Value:
        """Norm, branch and the sum with the shortcut."""

        def branch(normed: ir.Value) -> ir.Value:
            if isinstance(self.branch, CrossAttention):
                assert memory is not None, "a decoder behind an encoder"
                return self.branch.lower(graph, name, normed, memory)
            return self.branch.lower(graph, name, normed, padding)

        return self.lower_around(graph, name, x, branch)

    def lower_around(
        self, graph: GraphWriter, name: str, x: ir.Value, lower_branch: Callable[[ir.Value], ir.Value]
    ) -> ir.Value:
        """Norm and shortcut around whatever `lower_branch` writes for the branch, given the normed stream."""
        normed = x if self.norm is None else self.norm.lower(graph, f"{name}.norm", x)
        branch = lower_branch(normed)
        skip = normed if self.post_norm else x
        if self.shortcut is not None:
            skip = graph.linear(f"{name}.shortcut", skip, self.shortcut.weight, None)
        return graph.op("Add", f"{name}.residual", [skip, branch], shape_of(branch))

    def cost(self, tokens: int) -> Cost:
        """Norm, branch and shortcut; the stream stays alive beside the branch for the sum."""
        total = self.branch.cost(tokens) if self.norm is None else self.norm.cost(tokens) + self.branch.cost(tokens)
        total = replace(total, peak_elements=total.peak_elements + tokens * self.branch.spec.embed)
        if self.shortcut is not None:
            total += linear_cost(tokens, self.shortcut.in_features, self.shortcut.out_features, bias=False)
        return total
