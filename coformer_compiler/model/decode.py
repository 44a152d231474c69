"""Decoding: the graph of a causal model that takes a few tokens at a time and keeps keys and values between calls.

All shapes are static. A graph of `tokens` tokens has the inputs `ids` and `places` (int32 `(1, tokens)`) and, for
every attention, `keys_LAYER` and `values_LAYER` `(1, heads, length, head_dim)`; it gives the features of the last
token that is no padding `(1, features)` and every cache with the new tokens written in, as `keys_LAYER_next`. Padding
stands behind the tokens, its place is `length`, where nothing is written. TensorRT 8.2 has no update in place, so that
a row is written as `cache · (1 − one-hot) + one-hot · row`; who is seen follows from the places by arithmetic.
"""

from __future__ import annotations

from typing import NamedTuple

import onnx_ir as ir
import torch

from coformer_compiler.model.attention import Attention
from coformer_compiler.model.graph import GraphWriter, shape_of
from coformer_compiler.model.padding import MASKED, Padding
from coformer_compiler.model.token_stem import TokenStem
from coformer_compiler.model.transformer import FEATURES_NAME, Transformer

PLACES, KEYS, VALUES, NEXT = "places", "keys_{}", "values_{}", "_next"


class Places(NamedTuple):
    """What every layer's cache needs to know of the places.

    Attributes:
        written: float32 `(1, 1, length, tokens)`, one where a token's place is, zero elsewhere.
        kept: float32 `(1, 1, length, 1)`, zero where something is written, one elsewhere.
        unseen: float32 `(1, 1, tokens, length)`, what is added to scores: `MASKED` for places behind the token's own.
    """

    written: ir.Value
    kept: ir.Value
    unseen: ir.Value


def lower_decoder(model: Transformer, name: str, tokens: int) -> ir.Model:
    """The graph of `tokens` tokens, see above."""
    stem = model.stem
    assert isinstance(stem, TokenStem) and model.spec.pool.kind == "causal", "only causal models decode"
    graph, length = GraphWriter(), stem.spec.length
    ids = graph.input(stem.spec.input.name, ir.DataType.INT32, (1, tokens))
    numbers = graph.input(PLACES, ir.DataType.INT32, (1, tokens))
    x, padding = _embedded(graph, stem, ids, numbers)
    places = _places(graph, numbers, length)
    caches: list[ir.Value] = []
    for block_name, block in zip(model.spec.block_names, model.residuals, strict=True):
        normed = x if block.norm is None else block.norm.lower(graph, f"{block_name}.norm", x)
        if isinstance(block.branch, Attention):
            branch, written = _attend(graph, block_name, block.branch, normed, places, block.layer)
            caches += written
        else:
            branch = block.branch.lower(graph, block_name, normed)
        skip = normed if block.post_norm else x
        if block.shortcut is not None:
            skip = graph.linear(f"{block_name}.shortcut", skip, block.shortcut.weight, None)
        x = graph.op("Add", f"{block_name}.residual", [skip, branch], shape_of(branch))
    features = model.pool.lower(graph, "pool", x, padding)
    made = graph.model(name, features, FEATURES_NAME)
    made.graph.outputs.extend(caches)
    return made


def cache_shapes(model: Transformer) -> dict[str, tuple[int, ...]]:
    """Name → shape of every cache."""
    length = model.stem.spec.tokens
    shapes: dict[str, tuple[int, ...]] = {}
    for block in model.residuals:
        if isinstance(block.branch, Attention):
            spec = block.branch.spec
            for kind in (KEYS, VALUES):
                shapes[kind.format(block.layer)] = (1, spec.heads, length, spec.head_dim)
    return shapes


def _embedded(graph: GraphWriter, stem: TokenStem, ids: ir.Value, places: ir.Value) -> tuple[ir.Value, Padding | None]:
    spec, tokens = stem.spec, shape_of(ids)[1]
    shape = (1, tokens, spec.embed)
    x = graph.op("Gather", "stem.words", [graph.weight("stem.words.table", stem.words), ids], shape)
    if stem.positions is not None:
        table = torch.cat([stem.positions.detach(), stem.positions.new_zeros(1, spec.embed)])
        rows = graph.op("Gather", "stem.positions", [graph.weight("stem.positions.table", table), places], shape)
        x = graph.op("Add", "stem.placed", [x, rows], shape)
    if stem.norm is not None:
        x = stem.norm.lower(graph, "stem.norm", x)
    if stem.mix is not None:
        x = graph.linear("stem.mix", x, stem.mix.weight, stem.mix.bias)
    return x, None if tokens == 1 else stem.lower_padding(graph, "stem.padding", ids)


def _places(graph: GraphWriter, numbers: ir.Value, length: int) -> Places:
    tokens = shape_of(numbers)[1]
    place = graph.op("Cast", "places.number", [numbers], (1, tokens), {"to": int(ir.DataType.FLOAT)})
    one = graph.weight("places.one", torch.tensor(1.0))
    rows, columns = (1, 1, length, tokens), (1, 1, tokens, length)

    def reshaped(name: str, shape: tuple[int, ...]) -> ir.Value:
        return graph.op("Reshape", name, [place, graph.shape(f"{name}.shape", shape)], shape)

    down = graph.weight("places.down", torch.arange(length).float().view(1, 1, length, 1))
    apart = graph.op("Sub", "places.apart", [down, reshaped("places.across", (1, 1, 1, tokens))], rows)
    away = graph.op("Abs", "places.away", [apart], rows)
    written = graph.op("Relu", "places.written", [graph.op("Sub", "places.near", [one, away], rows)], rows)
    axes = graph.shape("places.axes", [3])
    taken = graph.op("ReduceSum", "places.taken", [written, axes], (1, 1, length, 1), {"keepdims": 1})
    kept = graph.op("Sub", "places.kept", [one, taken], (1, 1, length, 1))
    across = graph.weight("places.all", torch.arange(length).float().view(1, 1, 1, length))
    later = graph.op("Sub", "places.later", [across, reshaped("places.own", (1, 1, tokens, 1))], columns)
    behind = graph.op("Relu", "places.behind", [later], columns)
    masked = graph.weight("places.far", torch.tensor(MASKED))
    unseen = graph.op("Mul", "places.unseen", [graph.op("Min", "places.any", [behind, one], columns), masked], columns)
    return Places(written, kept, unseen)


def _attend(
    graph: GraphWriter, name: str, attention: Attention, x: ir.Value, places: Places, layer: int
) -> tuple[ir.Value, list[ir.Value]]:
    """What the attention writes into the stream, and its caches with the new keys and values."""
    spec, tokens = attention.spec, shape_of(x)[1]
    assert spec.causal and spec.score_bias is None and spec.query_norm is None, "as GPT-2 has it"
    heads, dim, length = spec.heads, spec.head_dim, shape_of(places.kept)[2]
    read = graph.linear(f"{name}.reader", x, attention.reader.weight, attention.reader.bias)
    parts = graph.split(f"{name}.split", read, [heads * dim] * 3)

    def heads_first(part: str, value: ir.Value) -> ir.Value:
        shape = (1, tokens, heads, dim)
        split = graph.op("Reshape", f"{name}.{part}.split", [value, graph.shape(f"{name}.{part}.shape", shape)], shape)
        return graph.op("Transpose", f"{name}.{part}", [split], (1, heads, tokens, dim), {"perm": [0, 2, 1, 3]})

    query, key, value = (heads_first(*each) for each in zip(("query", "key", "value"), parts, strict=True))
    shape = (1, heads, length, dim)
    cached = []
    for part, kind, new in (("keys", KEYS, key), ("values", VALUES, value)):
        old = graph.input(kind.format(layer), ir.DataType.FLOAT, shape)
        rest = graph.op("Mul", f"{name}.{part}.rest", [old, places.kept], shape)
        rows = graph.op("MatMul", f"{name}.{part}.rows", [places.written, new], shape)
        cached.append(graph.op("Add", kind.format(layer) + NEXT, [rest, rows], shape))
    scale = graph.weight(f"{name}.scale", torch.tensor(dim**-0.5))
    query = graph.op("Mul", f"{name}.query_scaled", [query, scale], (1, heads, tokens, dim))
    turned = graph.op("Transpose", f"{name}.turned", [cached[0]], (1, heads, dim, length), {"perm": [0, 1, 3, 2]})
    seen = (1, heads, tokens, length)
    scores = graph.op("MatMul", f"{name}.scores", [query, turned], seen)
    scores = graph.op("Add", f"{name}.masked", [scores, places.unseen], seen)
    weights = graph.op("Softmax", f"{name}.softmax", [scores], seen, {"axis": -1})
    mixed = graph.op("MatMul", f"{name}.mixed", [weights, cached[1]], (1, heads, tokens, dim))
    back = graph.op("Transpose", f"{name}.back", [mixed], (1, tokens, heads, dim), {"perm": [0, 2, 1, 3]})
    flat_shape = (1, tokens, heads * dim)
    flat = graph.op("Reshape", f"{name}.flat", [back, graph.shape(f"{name}.flat.shape", flat_shape)], flat_shape)
    return graph.linear(f"{name}.writer", flat, attention.writer.weight, attention.writer.bias), cached
