"""Token numbers to tokens: word, position and type embeddings, and the padding mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import onnx_ir as ir
import torch
from torch import nn

from coformer_compiler.model.cost import Cost, linear_cost
from coformer_compiler.model.graph import GraphWriter, shape_of
from coformer_compiler.model.linear import linear_from, take_linear
from coformer_compiler.model.norm import Norm
from coformer_compiler.model.padding import MASKED, Padding
from coformer_compiler.model.spec import TokenStemSpec


class TokenStem(nn.Module):
    """int32 token numbers `(batch, length)`, or `(batch, 2, length)` with their types, to `(batch, length, out)`.

    Fewer places than `length` will do. Of an input that other stems read too it takes its own numbers.

    `positions` belongs to places in the sequence, not to numbers of tokens: padding comes last, so a token's place is
    known when the graph is written. A type that all tokens have is part of `positions`. Without a table it is none.
    """

    def __init__(self, spec: TokenStemSpec) -> None:
        """Tables of zeros; importers and the transplant overwrite them."""
        super().__init__()
        self.spec = spec
        self.words = nn.Parameter(torch.zeros(spec.vocabulary, spec.embed))
        self.positions = nn.Parameter(torch.zeros(spec.length, spec.embed)) if spec.positions else None
        self.types = None if spec.types == 1 else nn.Parameter(torch.zeros(spec.types, spec.embed))
        self.norm = None if spec.norm is None else Norm(spec.norm)
        self.mix = None if spec.mix is None else nn.Linear(spec.embed, spec.mix)

    def mask(self, ids: torch.Tensor) -> torch.Tensor:
        """Bool `(batch, length)`: true where there is a token, false for padding."""
        return self._rows(ids)[0] != self.spec.pad

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Tokens `(batch, length, out)`."""
        tokens = self.embed(ids)
        if self.norm is not None:
            tokens = self.norm(tokens)
        return tokens if self.mix is None else self.mix(tokens)

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Tokens `(batch, length, embed)` before norm and mix."""
        words, types = self._rows(ids)
        tokens = nn.functional.embedding(words, self.words)
        tokens = tokens if self.positions is None else tokens + self.positions[: words.shape[1]]
        return tokens if self.types is None else tokens + nn.functional.embedding(types, self.types)

    def _rows(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Words and types, `(batch, length)` each; without types the words twice."""
        ids = ids[..., self.spec.before : self.spec.before + self.spec.length]
        return (ids, ids) if self.types is None else (ids[:, 0], ids[:, 1])

    def take(self, channels: Sequence[int]) -> TokenStem:
        """Index selection of stream channels: of the mix's outputs where there is a mix, else of the tables."""
        if self.mix is not None:
            made = self._through(self.spec.embed, torch.clone)
            if self.norm is not None:
                made.norm = self.norm.take(range(self.spec.embed))
            made.mix = take_linear(self.mix, channels, None)
            made.spec = replace(self.spec, mix=len(channels))
            return made
        kept = list(channels)
        made = self._through(len(kept), lambda table: table[:, kept])
        if self.norm is not None:
            made.norm = self.norm.take(channels)
            made.spec = replace(made.spec, norm=made.norm.spec)
        return made

    def project(self, basis: torch.Tensor) -> TokenStem:
        """The same embedding seen through `basis` `(width, embed)`: every table is multiplied by it.

        No norm, no mix.
        """
        inner = basis.double().T
        return self._through(len(basis), lambda table: (table.double() @ inner).float())

    def _through(self, embed: int, change: Callable[[torch.Tensor], torch.Tensor]) -> TokenStem:
        """A stem of other tables, `change` of ours; without norm and mix."""
        with torch.device("meta"):
            made = TokenStem(replace(self.spec, embed=embed, norm=None, mix=None))
        for name, table in self.named_parameters(recurse=False):
            setattr(made, name, nn.Parameter(change(table.detach())))
        return made

    def with_norm(self, norm: Norm, weight: torch.Tensor, bias: torch.Tensor) -> TokenStem:
        """Put `norm` and the linear `weight` (out, embed), `bias` (out) behind the embedding."""
        self.norm, self.mix = norm, linear_from(weight, bias)
        self.spec = replace(self.spec, norm=norm.spec, mix=len(weight))
        return self

    def lower(self, graph: GraphWriter, name: str, batch: int = 1) -> tuple[ir.Value, Padding]:
        """One Gather per table, their sum, and the padding mask: Equal, Cast and arithmetic, no booleans beyond."""
        spec = self.spec
        return self.lower_from(graph, name, graph.input(spec.input.name, ir.DataType.INT32, (batch, *spec.input.shape)))

    def lower_from(self, graph: GraphWriter, name: str, ids: ir.Value) -> tuple[ir.Value, Padding]:
        """`lower` for an input that the graph has already."""
        spec, length, batch = self.spec, self.spec.length, shape_of(ids)[0]
        if shape_of(ids)[-1] != length:
            first, last = spec.before, spec.before + length
            bounds = [graph.shape(f"{name}.{key}", [n]) for key, n in (("first", first), ("last", last), ("along", -1))]
            shape = (*shape_of(ids)[:-1], length)
            ids = graph.op("Slice", f"{name}.own", [ids, *bounds], shape, dtype=ir.DataType.INT32)
        words = ids if self.types is None else self._lower_row(graph, f"{name}.word", ids, 0)
        shape = (batch, length, spec.embed)
        x = graph.op("Gather", f"{name}.words", [graph.weight(f"{name}.words.table", self.words), words], shape)
        if self.positions is not None:
            x = graph.op("Add", f"{name}.placed", [x, graph.weight(f"{name}.positions", self.positions[None])], shape)
        if self.types is not None:
            types = self._lower_row(graph, f"{name}.type", ids, 1)
            typed = graph.op("Gather", f"{name}.types", [graph.weight(f"{name}.types.table", self.types), types], shape)
            x = graph.op("Add", f"{name}.typed", [x, typed], shape)
        if self.norm is not None:
            x = self.norm.lower(graph, f"{name}.norm", x)
        if self.mix is not None:
            x = graph.linear(f"{name}.mix", x, self.mix.weight, self.mix.bias)
        return x, self.lower_padding(graph, f"{name}.padding", words)

    def _lower_row(self, graph: GraphWriter, name: str, ids: ir.Value, row: int) -> ir.Value:
        bounds = [graph.shape(f"{name}.{key}", [n]) for key, n in (("first", row), ("last", row + 1), ("axis", 1))]
        batch, _, length = shape_of(ids)
        part = graph.op("Slice", f"{name}.row", [ids, *bounds], (batch, 1, length), dtype=ir.DataType.INT32)
        flat = graph.shape(f"{name}.shape", [batch, length])
        return graph.op("Reshape", f"{name}.ids", [part, flat], (batch, length), dtype=ir.DataType.INT32)

    def lower_padding(self, graph: GraphWriter, name: str, words: ir.Value) -> Padding:
        """The padding among words `(batch, tokens)`."""
        shape, pad = shape_of(words), graph.int32(f"{name}.word", [self.spec.pad])
        batch, length = shape
        missing = graph.op("Equal", f"{name}.missing", [words, pad], shape, dtype=ir.DataType.BOOL)
        absent = graph.op("Cast", f"{name}.absent", [missing], shape, {"to": int(ir.DataType.FLOAT)})
        far, one = (graph.weight(f"{name}.{key}", torch.tensor(n)) for key, n in (("far", MASKED), ("one", 1.0)))
        masked = graph.op("Mul", f"{name}.masked", [absent, far], shape)
        present = graph.op("Sub", f"{name}.present", [one, absent], shape)

        def reshaped(key: str, x: ir.Value, wanted: tuple[int, ...]) -> ir.Value:
            return graph.op("Reshape", f"{name}.{key}", [x, graph.shape(f"{name}.{key}.shape", wanted)], wanted)

        return Padding(reshaped("scores", masked, (batch, 1, 1, length)), reshaped("real", present, (batch, length, 1)))

    def cost(self) -> Cost:
        """Tables are read, not multiplied: their parameters, then norm and mix."""
        spec = self.spec
        rows = spec.vocabulary + (spec.length if spec.positions else 0) + (0 if self.types is None else spec.types)
        total = Cost(0, rows * spec.embed, 2 * spec.length * spec.embed, tables=rows * spec.embed)
        if self.norm is not None:
            total += self.norm.cost(spec.tokens)
        return total if self.mix is None else total + linear_cost(spec.tokens, spec.embed, self.mix.out_features)
