"""Multi-head self attention, written as reader, mix and writer.

A branch reads the normed stream with one linear (queries, keys and values side by side), mixes tokens without weights
of its own beyond per-head norms, and writes back with another linear. Transplanting needs nothing else.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import nn

from coformer_compiler.model.cost import Cost, linear_cost
from coformer_compiler.model.graph import GraphWriter, shape_of
from coformer_compiler.model.linear import take_linear
from coformer_compiler.model.memory import Memory
from coformer_compiler.model.norm import Norm
from coformer_compiler.model.padding import MASKED, Padding, score_mask
from coformer_compiler.model.spec import AttentionSpec
from coformer_compiler.model.window import window_tables


class Attention(nn.Module):
    """Self attention over `(batch, tokens, embed)`, giving `(batch, tokens, out)`; of all tokens, or within windows.

    Its units are heads. `reader` gives `3 · heads · head_dim` values: all queries, all keys, all values. `score_bias`
    `(heads, tokens, tokens)` is added to the scaled scores: relative positions, as a table that is looked up already.
    """

    unit_name = "heads"

    def __init__(self, spec: AttentionSpec) -> None:
        """Fresh weights; importers and the transplant overwrite them."""
        super().__init__()
        self.spec = spec
        inner = spec.heads * spec.head_dim
        self.reader = nn.Linear(spec.embed, 3 * inner, bias=spec.reader_bias)
        self.query_norm = None if spec.query_norm is None else Norm(spec.query_norm)
        self.key_norm = None if spec.query_norm is None else Norm(spec.query_norm)
        side = spec.score_bias
        self.score_bias = None if side is None else nn.Parameter(torch.zeros(spec.heads, side, side))
        self.writer = nn.Linear(inner, spec.out, bias=spec.writer_bias)

    @property
    def units(self) -> int:
        """Number of heads."""
        return self.spec.heads

    @property
    def readers(self) -> tuple[nn.Linear, ...]:
        """The linear that reads the stream."""
        return (self.reader,)

    @property
    def values(self) -> tuple[nn.Linear, slice]:
        """The linear that gives the values, and its rows that do."""
        return self.reader, slice(2 * self.spec.heads * self.spec.head_dim, None)

    @property
    def attended(self) -> int:
        """Width of the stream that the heads attend to."""
        return self.spec.embed

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None, memory: Memory | None = None) -> torch.Tensor:
        """`(batch, tokens, embed)` to `(batch, tokens, out)`; `mask` as in `mix`."""
        out: torch.Tensor = self.writer(self.mixed(x, mask))
        return out

    def mixed(self, x: torch.Tensor, mask: torch.Tensor | None = None, memory: Memory | None = None) -> torch.Tensor:
        """What the writer reads, `(batch, tokens, heads · head_dim)`."""
        return self.mix(self.reader(x), mask)

    def gathered(self, x: torch.Tensor, mask: torch.Tensor | None = None, memory: Memory | None = None) -> torch.Tensor:
        """`mixed` with the stream itself for values, `(batch, tokens, heads · embed)`."""
        return self.mix_stream(self.reader(x), x, mask)

    def mix(self, read: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """`(batch, tokens, 3 · heads · head_dim)` of queries, keys, values to `(batch, tokens, heads · head_dim)`.

        `mask` is bool `(batch, tokens)`, false where there is padding, to which no token attends. Windows have none;
        behind the last token of a text, where causal attention does not look, it may be anything.
        """
        query, key, value = self._heads_of(self._in_windows(read))
        return self._attend(query, key, value, mask)

    def mix_stream(self, read: torch.Tensor, stream: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """`mix` with the stream itself in place of every head's values.

        Args:
            read: as in `mix`.
            stream: `(batch, tokens, width)`.
            mask: as in `mix`.

        Returns:
            `(batch, tokens, heads · width)`: of each head the stream's tokens as it attends to them.
        """
        query, key, _ = self._heads_of(self._in_windows(read))
        return self._attend(query, key, self._in_windows(stream)[:, None].expand(-1, self.spec.heads, -1, -1), mask)

    def _in_windows(self, x: torch.Tensor) -> torch.Tensor:
        """`(batch · windows, tokens of a window, width)`; as it is without windows."""
        window = self.spec.window
        if window is None:
            return x
        order = window_tables(window, x.device).order
        return x.index_select(1, order).view(len(x) * window.windows, window.tokens, x.shape[-1])

    def _heads_of(self, read: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Queries, keys and values, each `(batch, heads, tokens, head_dim)`."""
        split = read.view(*read.shape[:2], 3, self.spec.heads, self.spec.head_dim).permute(2, 0, 3, 1, 4)
        query, key, value = split.unbind(0)
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        return query, key, value

    def _attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """`(batch, tokens, heads · width of a value)`, the tokens in the order of the stream."""
        if query.dtype == torch.bfloat16 and query.device.type == "cpu":
            # There the backward pass takes several times as long in bfloat16 as in float32.
            query, key, value = query.float(), key.float(), value.float()
        added = self._added_to_scores(mask, query)
        causal = self.spec.causal and added is None
        with torch.autocast("cpu", enabled=False):
            mixed = F.scaled_dot_product_attention(query, key, value, added, is_causal=causal)
        mixed, window = mixed.transpose(1, 2).flatten(2), self.spec.window
        if window is None:
            return mixed
        whole = mixed.reshape(len(mixed) // window.windows, -1, mixed.shape[-1])
        return whole.index_select(1, window_tables(window, query.device).back)

    def _added_to_scores(self, mask: torch.Tensor | None, query: torch.Tensor) -> torch.Tensor | None:
        if self.spec.window is not None:
            apart = window_tables(self.spec.window, query.device).mask
            if apart is not None:
                added = apart.to(query.dtype) if self.score_bias is None else apart + self.score_bias
                return added.expand(-1, self.spec.heads, -1, -1).repeat(len(query) // len(apart), 1, 1, 1)
        if self.spec.causal:
            return None if self.score_bias is None else self.score_bias + later_tokens(query.shape[2]).to(query)
        if mask is None:
            return self.score_bias
        added = score_mask(mask, query.dtype)
        tokens = query.shape[2]
        return added if self.score_bias is None else self.score_bias[:, :tokens, :tokens] + added

    def reader_rows(self, heads: Sequence[int]) -> tuple[list[int], ...]:
        """Rows of each of the readers that the given heads own, in the layout of a smaller reader."""
        inner = self.spec.heads * self.spec.head_dim
        return ([part * inner + column for part in range(3) for column in self.writer_columns(heads)],)

    def writer_columns(self, heads: Sequence[int]) -> list[int]:
        """Columns of `writer` that the given heads own."""
        dim = self.spec.head_dim
        return [head * dim + i for head in heads for i in range(dim)]

    def with_units(self, heads: Sequence[int], readers: Sequence[nn.Linear], writer: nn.Linear) -> Attention:
        """An attention of the given linears, with the given heads' score biases and this one's per-head norms."""
        (reader,) = readers
        spec = replace(
            self.spec,
            embed=reader.in_features,
            out=writer.out_features,
            heads=len(heads),
            reader_bias=reader.bias is not None,
            writer_bias=writer.bias is not None,
        )
        with torch.device("meta"):
            made = Attention(spec)
        made.reader, made.writer = reader, writer
        made.query_norm, made.key_norm = copy.deepcopy(self.query_norm), copy.deepcopy(self.key_norm)
        if self.score_bias is not None:
            made.score_bias = nn.Parameter(self.score_bias.detach()[list(heads)])
        return made

    def take(self, heads: Sequence[int], channels_in: Sequence[int], channels_out: Sequence[int]) -> Attention:
        """Index selection: the given heads, reading and writing the given channels."""
        (rows,) = self.reader_rows(heads)
        reader = take_linear(self.reader, rows, channels_in)
        return self.with_units(heads, [reader], take_linear(self.writer, channels_out, self.writer_columns(heads)))

    def lower(self, graph: GraphWriter, name: str, x: ir.Value, padding: Padding | None = None) -> ir.Value:
        """MatMul, Softmax, MatMul in four dimensions, with the scale on the queries (the form that engines fuse).

        Windows take the place of the batch: a Gather puts the tokens in their order, another one back.
        """
        lead, (batch, tokens, _), window = shape_of(x)[:2], shape_of(x), self.spec.window
        heads, dim = self.spec.heads, self.spec.head_dim
        bias = None if self.score_bias is None else self.score_bias[None]
        if window is not None:
            tables = window_tables(window, torch.device("cpu"))
            x = graph.pick(f"{name}.windows", x, tables.order)
            if tables.mask is not None:
                bias = tables.mask if bias is None else tables.mask + bias.cpu()
                bias = bias.repeat(batch, 1, 1, 1)
            batch, tokens = batch * window.windows, window.tokens
        if self.spec.causal:
            bias = later_tokens(tokens) if bias is None else bias.cpu() + later_tokens(tokens)
        read = graph.linear(f"{name}.reader", x, self.reader.weight, self.reader.bias)
        parts = graph.split(f"{name}.split", read, [heads * dim] * 3)
        query, key, value = (
            self._heads_first(
                graph,
                f"{name}.{part}",
                parts[i],
                (batch, tokens, heads, dim),
                (0, 2, 3, 1) if part == "key" and not self.query_norm else (0, 2, 1, 3),
            )
            for i, part in enumerate(("query", "key", "value"))
        )
        if self.query_norm is not None and self.key_norm is not None:
            query = self.query_norm.lower(graph, f"{name}.query_norm", query)
            key = self.key_norm.lower(graph, f"{name}.key_norm", key)
            key = graph.op(
                "Transpose", f"{name}.key_transposed", [key], (batch, heads, dim, tokens), {"perm": [0, 1, 3, 2]}
            )
        scale = graph.weight(f"{name}.scale", torch.tensor(dim**-0.5))
        query = graph.op("Mul", f"{name}.query_scaled", [query, scale], (batch, heads, tokens, dim))
        scores = graph.op("MatMul", f"{name}.scores", [query, key], (batch, heads, tokens, tokens))
        if bias is not None:
            added = graph.shared_weight(f"{name}.score_bias", bias)
            scores = graph.op("Add", f"{name}.biased", [scores, added], (batch, heads, tokens, tokens))
        if padding is not None and not self.spec.causal:
            scores = graph.op("Add", f"{name}.masked", [scores, padding.scores], (batch, heads, tokens, tokens))
        weights = graph.op("Softmax", f"{name}.softmax", [scores], (batch, heads, tokens, tokens), {"axis": -1})
        mixed = graph.op("MatMul", f"{name}.mixed", [weights, value], (batch, heads, tokens, dim))
        back = graph.op("Transpose", f"{name}.back", [mixed], (batch, tokens, heads, dim), {"perm": [0, 2, 1, 3]})
        flat = graph.op(
            "Reshape",
            f"{name}.flat",
            [back, graph.shape(f"{name}.flat.shape", [*lead, heads * dim])],
            (*lead, heads * dim),
        )
        if window is not None:
            flat = graph.pick(f"{name}.grid", flat, window_tables(window, torch.device("cpu")).back)
        return graph.linear(f"{name}.writer", flat, self.writer.weight, self.writer.bias)

    def _heads_first(
        self, graph: GraphWriter, name: str, x: ir.Value, shape: tuple[int, ...], perm: tuple[int, ...]
    ) -> ir.Value:
        split = graph.op("Reshape", f"{name}.split", [x, graph.shape(f"{name}.shape", shape)], shape)
        return graph.op("Transpose", name, [split], [shape[i] for i in perm], {"perm": list(perm)})

    def cost(self, tokens: int) -> Cost:
        """Two linears and two products of tokens × tokens (those of a window) per head."""
        spec = self.spec
        seen = tokens if spec.window is None else spec.window.tokens
        inner = spec.heads * spec.head_dim
        read = linear_cost(tokens, spec.embed, 3 * inner, spec.reader_bias)
        scores = Cost(4 * tokens * seen * inner, 0, tokens * 3 * inner + 2 * spec.heads * tokens * seen)
        norms = Cost(0, sum(p.numel() for n in (self.query_norm, self.key_norm) if n for p in n.parameters()))
        bias = Cost(0, 0 if spec.score_bias is None else spec.heads * spec.score_bias**2)
        cached = Cost(cached=2 * tokens * inner if spec.causal else 0)
        return read + scores + norms + bias + cached + linear_cost(tokens, inner, spec.out, spec.writer_bias)


def later_tokens(tokens: int) -> torch.Tensor:
    """What causal attention adds to scores, `(1, 1, tokens, tokens)`: zero, and `MASKED` for keys behind the query."""
    return torch.full((tokens, tokens), MASKED).triu(1)[None, None]
