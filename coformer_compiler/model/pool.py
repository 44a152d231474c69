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
from coformer_compiler.model.padding import Padding
from coformer_compiler.model.spec import PoolSpec


class Pool(nn.Module):
    """Tokens `(batch, tokens, embed)` to features `(batch, features)`, of causal models `(batch, tokens, features)`.

    It is `finish(norm(rows(x)))`, where `rows` picks or averages tokens and `finish` averages or lays side by side.
    """

    def __init__(self, spec: PoolSpec) -> None:
        """A final norm of gain one and bias zero."""
        super().__init__()
        self.spec = spec
        self.norm = None if spec.norm is None else Norm(spec.norm)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """`(batch, tokens, embed)` to features; `mask` `(batch, tokens)` is false for padding."""
        rows = self.rows(x, mask)
        return self.finish(rows if self.norm is None else self.norm(rows), mask)

    def rows(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """The vectors that the final norm sees, `(batch, rows, width)`: linear in the tokens."""
        if self.spec.kind == "causal":
            return x
        if self.spec.kind == "prefix":
            return x[:, : self.spec.count]
        kept = x[:, self.spec.count :]
        return kept if self.spec.norm_first else self._mean(kept, mask)[:, None]

    def row_mask(self, mask: torch.Tensor | None) -> torch.Tensor | None:
        """Which of `rows` are no padding, `(batch, rows)`; None for all of them."""
        if mask is None or self.spec.kind == "causal":
            return mask
        if self.spec.kind == "mean" and not self.spec.norm_first:
            return None
        return mask[:, : self.spec.count] if self.spec.kind == "prefix" else mask[:, self.spec.count :]

    def finish(self, rows: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Normed rows to features."""
        if self.spec.kind == "causal":
            return rows
        if self.spec.kind == "prefix":
            return rows.flatten(1)
        return self._mean(rows, mask) if self.spec.norm_first else rows.mean(1)

    def sent(self, features: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """The features that a graph gives, `(batch, features)`: of a causal model those of the last token."""
        if self.spec.kind != "causal":
            return features
        if mask is None:
            return features[:, -1]
        return features[torch.arange(len(features), device=features.device), mask.sum(1).clamp(min=1) - 1]

    def _mean(self, tokens: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Mean over the tokens after the first `count` that are no padding, `(batch, width)`."""
        if mask is None:
            return tokens.mean(1)
        real = mask[:, self.spec.count :, None].to(tokens.dtype)
        return (tokens * real).sum(1) / real.sum(1).clamp(min=1)

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

    def lower(self, graph: GraphWriter, name: str, x: ir.Value, padding: Padding | None = None) -> ir.Value:
        """Slice or mean around the norm; the result is `(batch, features)`."""
        if self.spec.kind == "causal":
            return self._lower_last(graph, name, x, padding)
        batch, tokens, embed = shape_of(x)
        first, last = (0, self.spec.count) if self.spec.kind == "prefix" else (self.spec.count, tokens)
        if (first, last) != (0, tokens):
            bounds = [graph.shape(f"{name}.{key}", [n]) for key, n in (("first", first), ("last", last), ("axis", 1))]
            x = graph.op("Slice", f"{name}.kept", [x, *bounds], (batch, last - first, embed))
        if self.norm is not None and self.spec.norm_first:
            x = self.norm.lower(graph, f"{name}.norm", x)
        if self.spec.kind == "mean":
            x = self._lower_mean(graph, name, x, padding)
        if self.norm is not None and not self.spec.norm_first:
            x = self.norm.lower(graph, f"{name}.norm", x)
        if self.spec.kind == "mean":
            return x
        width = embed * self.spec.count
        return graph.op("Reshape", f"{name}.flat", [x, graph.shape(f"{name}.shape", [batch, width])], (batch, width))

    def _lower_last(self, graph: GraphWriter, name: str, x: ir.Value, padding: Padding | None) -> ir.Value:
        """The last token that is no padding, by a product with zeros and a one; the norm runs over this one alone."""
        batch, tokens, embed = shape_of(x)
        if tokens == 1:
            flat = graph.shape(f"{name}.shape", [batch, embed])
            x = graph.op("Reshape", f"{name}.flat", [x, flat], (batch, embed))
            return x if self.norm is None else self.norm.lower(graph, f"{name}.norm", x)
        assert padding is not None, "texts have padding"
        bounds = [graph.shape(f"{name}.{key}", [n]) for key, n in (("second", 1), ("last", tokens), ("axis", 1))]
        later = graph.op("Slice", f"{name}.later", [padding.real, *bounds], (batch, tokens - 1, 1))
        none = graph.weight(f"{name}.none", torch.zeros(batch, 1, 1))
        following = graph.op("Concat", f"{name}.following", [later, none], (batch, tokens, 1), {"axis": 1})
        is_last = graph.op("Sub", f"{name}.is_last", [padding.real, following], (batch, tokens, 1))
        alone = graph.op("Mul", f"{name}.alone", [x, is_last], (batch, tokens, embed))
        axes = graph.shape(f"{name}.axes", [1])
        x = graph.op("ReduceSum", f"{name}.picked", [alone, axes], (batch, embed), {"keepdims": 0})
        return x if self.norm is None else self.norm.lower(graph, f"{name}.norm", x)

    def _lower_mean(self, graph: GraphWriter, name: str, x: ir.Value, padding: Padding | None) -> ir.Value:
        batch, tokens, embed = shape_of(x)
        axes = graph.shape(f"{name}.axes", [1])
        if padding is None:
            return graph.op("ReduceMean", f"{name}.mean", [x, axes], (batch, embed), {"keepdims": 0})
        assert tokens == shape_of(padding.real)[1], "padded sequences have no prefix to leave out"
        real = graph.op("Mul", f"{name}.real", [x, padding.real], (batch, tokens, embed))
        total = graph.op("ReduceSum", f"{name}.sum", [real, axes], (batch, embed), {"keepdims": 0})
        count = graph.op("ReduceSum", f"{name}.count", [padding.real, axes], (batch, 1), {"keepdims": 0})
        return graph.op("Div", f"{name}.mean", [total, count], (batch, embed))

    def cost(self, tokens: int) -> Cost:
        """The norm alone; of a causal model that of one token."""
        seen = 1 if self.spec.kind == "causal" else tokens
        return Cost() if self.norm is None else self.norm.cost(seen)
