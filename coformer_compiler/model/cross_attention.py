"""Multi-head attention of a decoder's stream to the memory: a branch that reads two streams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import nn

from coformer_compiler.model.cost import Cost, linear_cost
from coformer_compiler.model.graph import GraphWriter, shape_of
from coformer_compiler.model.linear import take_linear
from coformer_compiler.model.memory import LoweredMemory, Memory
from coformer_compiler.model.padding import score_mask
from coformer_compiler.model.spec import CrossAttentionSpec


class CrossAttention(nn.Module):
    """`(batch, tokens, embed)` and a memory to `(batch, tokens, out)`. Its units are heads.

    `reader` gives the queries of the stream, `heads · head_dim`; `memory_reader` gives all keys and then all values of
    the memory, `2 · heads · head_dim`. Keys and values do not depend on the stream: a decoder computes them once.
    """

    unit_name = "heads"

    def __init__(self, spec: CrossAttentionSpec) -> None:
        """Fresh weights; importers and the transplant overwrite them."""
        super().__init__()
        self.spec = spec
        inner = spec.heads * spec.head_dim
        self.reader = nn.Linear(spec.embed, inner, bias=spec.reader_bias)
        self.memory_reader = nn.Linear(spec.memory, 2 * inner, bias=spec.memory_bias)
        self.writer = nn.Linear(inner, spec.out, bias=spec.writer_bias)

    @property
    def units(self) -> int:
        """Number of heads."""
        return self.spec.heads

    @property
    def readers(self) -> tuple[nn.Linear, ...]:
        """The linear that reads the stream, and the one that reads the memory."""
        return self.reader, self.memory_reader

    @property
    def values(self) -> tuple[nn.Linear, slice]:
        """The linear that gives the values, and its rows that do."""
        return self.memory_reader, slice(self.spec.heads * self.spec.head_dim, None)

    @property
    def attended(self) -> int:
        """Width of the stream that the heads attend to."""
        return self.spec.memory

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None, memory: Memory | None = None) -> torch.Tensor:
        """`(batch, tokens, embed)` to `(batch, tokens, out)`."""
        out: torch.Tensor = self.writer(self.mixed(x, mask, memory))
        return out

    def mixed(self, x: torch.Tensor, mask: torch.Tensor | None = None, memory: Memory | None = None) -> torch.Tensor:
        """What the writer reads, `(batch, tokens, heads · head_dim)`, whatever the mask of the stream itself."""
        assert memory is not None, "a decoder behind an encoder"
        keys, values = self._keys_and_values(memory.tokens)
        return self._attend(x, keys, values, memory.mask)

    def gathered(self, x: torch.Tensor, mask: torch.Tensor | None = None, memory: Memory | None = None) -> torch.Tensor:
        """`mixed` with the memory itself for values, `(batch, tokens, heads · memory)`."""
        assert memory is not None, "a decoder behind an encoder"
        keys, _ = self._keys_and_values(memory.tokens)
        values = memory.tokens[:, None].expand(-1, self.spec.heads, -1, -1)
        return self._attend(x, keys, values, memory.mask)

    def _keys_and_values(self, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Each `(batch, heads, memory tokens, head_dim)`."""
        inner = self.spec.heads * self.spec.head_dim
        keys, values = self.memory_reader(memory).split(inner, -1)
        return self._heads_first(keys.contiguous()), self._heads_first(values.contiguous())

    def _attend(
        self, x: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """`(batch, tokens, heads · width of a value)` for keys and values."""
        query, added = self._heads_first(self.reader(x)), None if mask is None else score_mask(mask, x.dtype)
        mixed = F.scaled_dot_product_attention(query, keys, values, added)
        return mixed.transpose(1, 2).flatten(2)

    def _heads_first(self, x: torch.Tensor) -> torch.Tensor:
        """`(batch, tokens, heads · head_dim)` to `(batch, heads, tokens, head_dim)`."""
        return x.view(*x.shape[:2], self.spec.heads, self.spec.head_dim).transpose(1, 2)

    def reader_rows(self, heads: Sequence[int]) -> tuple[list[int], ...]:
        """Rows of each of the readers that the given heads own, in the layout of smaller ones."""
        inner, own = self.spec.heads * self.spec.head_dim, self.writer_columns(heads)
        return own, [part * inner + column for part in range(2) for column in own]

    def writer_columns(self, heads: Sequence[int]) -> list[int]:
        """Columns of `writer` that the given heads own."""
        dim = self.spec.head_dim
        return [head * dim + i for head in heads for i in range(dim)]

    def with_units(self, heads: Sequence[int], readers: Sequence[nn.Linear], writer: nn.Linear) -> CrossAttention:
        """A cross-attention of the given linears."""
        reader, memory_reader = readers
        spec = replace(
            self.spec,
            embed=reader.in_features,
            memory=memory_reader.in_features,
            out=writer.out_features,
            heads=len(heads),
            reader_bias=reader.bias is not None,
            memory_bias=memory_reader.bias is not None,
            writer_bias=writer.bias is not None,
        )
        with torch.device("meta"):
            made = CrossAttention(spec)
        made.reader, made.memory_reader, made.writer = reader, memory_reader, writer
        return made

    def take(
        self,
        heads: Sequence[int],
        channels_in: Sequence[int],
        channels_out: Sequence[int],
        channels_of_memory: Sequence[int],
    ) -> CrossAttention:
        """Index selection: the given heads, reading and writing the given channels."""
        rows, memory_rows = self.reader_rows(heads)
        readers = [
            take_linear(self.reader, rows, channels_in),
            take_linear(self.memory_reader, memory_rows, channels_of_memory),
        ]
        return self.with_units(heads, readers, take_linear(self.writer, channels_out, self.writer_columns(heads)))

    def lower(self, graph: GraphWriter, name: str, x: ir.Value, memory: LoweredMemory) -> ir.Value:
        """Keys and values of the memory, then `lower_attending`."""
        keys, values = self.lower_memory(graph, name, memory.tokens)
        unread = None if memory.padding is None else memory.padding.scores
        return self.lower_attending(graph, name, x, keys, values, unread)

    def lower_memory(self, graph: GraphWriter, name: str, memory: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Keys and values `(1, heads, memory tokens, head_dim)` of a memory `(1, memory tokens, width)`."""
        inner = self.spec.heads * self.spec.head_dim
        read = graph.linear(f"{name}.memory", memory, self.memory_reader.weight, self.memory_reader.bias)
        keys, values = graph.split(f"{name}.memory.split", read, [inner] * 2)
        return self._lower_heads(graph, f"{name}.keys", keys), self._lower_heads(graph, f"{name}.values", values)

    def lower_attending(
        self, graph: GraphWriter, name: str, x: ir.Value, keys: ir.Value, values: ir.Value, unread: ir.Value | None
    ) -> ir.Value:
        """MatMul, Softmax, MatMul in four dimensions, with the scale on the queries.

        Args:
            graph: written to.
            name: of the sub-block.
            x: normed stream `(1, tokens, embed)`.
            keys: `(1, heads, memory tokens, head_dim)`.
            values: likewise.
            unread: `(1, 1, 1, memory tokens)`, added to the scores; see `Padding.scores`.
        """
        (batch, tokens, _), (_, heads, seen, dim) = shape_of(x), shape_of(keys)
        read = graph.linear(f"{name}.reader", x, self.reader.weight, self.reader.bias)
        query, scale = self._lower_heads(graph, f"{name}.query", read), graph.weight(f"{name}.scale", _scale(dim))
        query = graph.op("Mul", f"{name}.query_scaled", [query, scale], (batch, heads, tokens, dim))
        turned = graph.op("Transpose", f"{name}.turned", [keys], (batch, heads, dim, seen), {"perm": [0, 1, 3, 2]})
        scores = graph.op("MatMul", f"{name}.scores", [query, turned], (batch, heads, tokens, seen))
        if unread is not None:
            scores = graph.op("Add", f"{name}.masked", [scores, unread], (batch, heads, tokens, seen))
        weights = graph.op("Softmax", f"{name}.softmax", [scores], (batch, heads, tokens, seen), {"axis": -1})
        mixed = graph.op("MatMul", f"{name}.mixed", [weights, values], (batch, heads, tokens, dim))
        back = graph.op("Transpose", f"{name}.back", [mixed], (batch, tokens, heads, dim), {"perm": [0, 2, 1, 3]})
        shape = (batch, tokens, heads * dim)
        flat = graph.op("Reshape", f"{name}.flat", [back, graph.shape(f"{name}.flat.shape", shape)], shape)
        return graph.linear(f"{name}.writer", flat, self.writer.weight, self.writer.bias)

    def _lower_heads(self, graph: GraphWriter, name: str, x: ir.Value) -> ir.Value:
        batch, tokens, _ = shape_of(x)
        heads, dim = self.spec.heads, self.spec.head_dim
        shape = (batch, tokens, heads, dim)
        split = graph.op("Reshape", f"{name}.split", [x, graph.shape(f"{name}.shape", shape)], shape)
        return graph.op("Transpose", name, [split], (batch, heads, tokens, dim), {"perm": [0, 2, 1, 3]})

    def cost(self, tokens: int) -> Cost:
        """Three linears, one of them over the memory, and two products of tokens × memory tokens per head."""
        spec, inner = self.spec, self.spec.heads * self.spec.head_dim
        read = linear_cost(tokens, spec.embed, inner, spec.reader_bias)
        remembered = linear_cost(spec.tokens, spec.memory, 2 * inner, spec.memory_bias)
        elements = (tokens + 2 * spec.tokens) * inner + 2 * spec.heads * tokens * spec.tokens
        scores = Cost(4 * tokens * spec.tokens * inner, 0, elements, cached=2 * spec.tokens * inner)
        return read + remembered + scores + linear_cost(tokens, inner, spec.out, spec.writer_bias)


def _scale(dim: int) -> torch.Tensor:
    return torch.tensor(dim**-0.5)
