"""Decoding: the graphs of a causal model that takes a few tokens at a time and keeps keys and values between calls.

All shapes are static. A graph of `tokens` tokens has the inputs `ids` and `places` (int32 `(1, tokens)`) and, for
every attention, `keys_LAYER` and `values_LAYER` `(1, heads, length, head_dim)`; it gives the features of the last
token that is no padding `(1, features)` and every cache with the new tokens written in, as `keys_LAYER_next`. Padding
stands behind the tokens, its place is `length`, where nothing is written. TensorRT 8.2 has no update in place, so that
a row is written as `cache · (1 − one-hot) + one-hot · row`; who is seen follows from the places by arithmetic.

A decoder behind an encoder has besides the inputs `cross_keys_LAYER` and `cross_values_LAYER` `(1, heads, memory
tokens, head_dim)` of every cross-attention, and `unread` `(1, 1, 1, memory tokens)`, which is added to its scores.
Another graph gives these, once for a text that is read.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
import torch

from coformer_compiler.model.attention import Attention
from coformer_compiler.model.cross_attention import CrossAttention
from coformer_compiler.model.graph import GraphWriter, shape_of
from coformer_compiler.model.padding import MASKED, Padding
from coformer_compiler.model.residual import Residual
from coformer_compiler.model.token_stem import TokenStem
from coformer_compiler.model.transformer import FEATURES_NAME, Transformer

PLACES, KEYS, VALUES, NEXT = "places", "keys_{}", "values_{}", "_next"
CROSS_KEYS, CROSS_VALUES, UNREAD = "cross_keys_{}", "cross_values_{}", "unread"


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
    stem = model.texts
    assert isinstance(stem, TokenStem) and model.spec.pool.kind == "causal", "only causal models decode"
    graph, length = GraphWriter(), stem.spec.length
    ids = graph.input(stem.spec.input.name, ir.DataType.INT32, (1, tokens))
    numbers = graph.input(PLACES, ir.DataType.INT32, (1, tokens))
    x, padding = _embedded(graph, stem, ids, numbers)
    places = _places(graph, numbers, length)
    read = {each: graph.input(each, ir.DataType.FLOAT, shape) for each, shape in source_shapes(model).items()}
    caches: list[ir.Value] = []

    def branch_of(block_name: str, block: Residual, normed: ir.Value) -> ir.Value:
        branch = block.branch
        if isinstance(branch, Attention):
            attended, written = _attend(graph, block_name, branch, normed, places, numbers, block.layer)
            caches.extend(written)
            return attended
        if isinstance(branch, CrossAttention):
            keys, values = (read[kind.format(block.layer)] for kind in (CROSS_KEYS, CROSS_VALUES))
            return branch.lower_attending(graph, block_name, normed, keys, values, read[UNREAD])
        return branch.lower(graph, block_name, normed)

    for block_name, block in _decoding(model):
        x = block.lower_around(graph, block_name, x, functools.partial(branch_of, block_name, block))
    features = model.pool.lower(graph, "pool", x, padding)
    made = graph.model(name, features, FEATURES_NAME)
    made.graph.outputs.extend(caches)
    return made


def lower_source(model: Transformer, name: str) -> ir.Model:
    """The graph that reads a text `ids` (int32 `(1, length)`) and gives what its decoder needs to know of it."""
    stem, graph = model.stem, GraphWriter()
    assert isinstance(stem, TokenStem) and model.bridge is not None, "an encoder and a decoder"
    ids = graph.input(stem.spec.input.name, ir.DataType.INT32, (1, stem.spec.length))
    x, padding = stem.lower_from(graph, "stem", ids)
    names = dict(zip(model.steps, model.spec.block_names, strict=True))
    for block in model.steps[: model.steps.index(model.bridge)]:
        assert isinstance(block, Residual)
        x = block.lower(graph, names[block], x, padding)
    memory = model.bridge.norm.lower(graph, f"{names[model.bridge]}.norm", x)
    outputs: list[ir.Value] = []
    for block_name, block in _decoding(model):
        if isinstance(block.branch, CrossAttention):
            found = block.branch.lower_memory(graph, block_name, memory)
            for value, kind in zip(found, (CROSS_KEYS, CROSS_VALUES), strict=True):
                value.name = kind.format(block.layer)
            outputs += found
    made = graph.model(name, padding.scores, UNREAD)
    made.graph.outputs.extend(outputs)
    return made


def cache_shapes(model: Transformer) -> dict[str, tuple[int, ...]]:
    """Name → shape of every cache."""
    length = model.texts.spec.tokens
    shapes: dict[str, tuple[int, ...]] = {}
    for _, block in _decoding(model):
        if isinstance(block.branch, Attention):
            spec = block.branch.spec
            for kind in (KEYS, VALUES):
                shapes[kind.format(block.layer)] = (1, spec.heads, length, spec.head_dim)
    return shapes


def source_shapes(model: Transformer) -> dict[str, tuple[int, ...]]:
    """Name → shape of what a decoder knows of the text that was read; empty without an encoder."""
    if model.bridge is None:
        return {}
    shapes: dict[str, tuple[int, ...]] = {UNREAD: (1, 1, 1, model.stem.spec.tokens)}
    for _, block in _decoding(model):
        if isinstance(block.branch, CrossAttention):
            spec = block.branch.spec
            for kind in (CROSS_KEYS, CROSS_VALUES):
                shapes[kind.format(block.layer)] = (1, spec.heads, spec.tokens, spec.head_dim)
    return shapes


def _decoding(model: Transformer) -> list[tuple[str, Residual]]:
    """The sub-blocks that run for every token, with their names: those behind the bridge, if there is one."""
    steps = model.steps
    first = 0 if model.bridge is None else steps.index(model.bridge) + 1
    named = list(zip(model.spec.block_names, steps, strict=True))[first:]
    return [(name, block) for name, block in named if isinstance(block, Residual)]


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
    one = graph.weight("places.one", torch.tensor(1.0))
    rows, columns = (1, 1, length, tokens), (1, 1, tokens, length)

    def less(name: str, every: str, by: str, across: tuple[int, ...], own: tuple[int, ...]) -> ir.Value:
        """Every place less the tokens' own, as float: integers until then, which halves beyond 2,048 do not hold."""
        shape = tuple(max(sizes) for sizes in zip(across, own, strict=True))
        placed = graph.op("Reshape", by, [numbers, graph.shape(f"{by}.shape", own)], own, dtype=ir.DataType.INT32)
        places = graph.int32(every, np.arange(length).reshape(across))
        whole = graph.op("Sub", f"{name}.whole", [places, placed], shape, dtype=ir.DataType.INT32)
        return graph.op("Cast", name, [whole], shape, {"to": int(ir.DataType.FLOAT)})

    apart = less("places.apart", "places.down", "places.across", (1, 1, length, 1), (1, 1, 1, tokens))
    away = graph.op("Abs", "places.away", [apart], rows)
    written = graph.op("Relu", "places.written", [graph.op("Sub", "places.near", [one, away], rows)], rows)
    axes = graph.shape("places.axes", [3])
    taken = graph.op("ReduceSum", "places.taken", [written, axes], (1, 1, length, 1), {"keepdims": 1})
    kept = graph.op("Sub", "places.kept", [one, taken], (1, 1, length, 1))
    later = less("places.later", "places.all", "places.own", (1, 1, 1, length), (1, 1, tokens, 1))
    behind = graph.op("Relu", "places.behind", [later], columns)
    masked = graph.weight("places.far", torch.tensor(MASKED))
    unseen = graph.op("Mul", "places.unseen", [graph.op("Min", "places.any", [behind, one], columns), masked], columns)
    return Places(written, kept, unseen)


def _attend(
    graph: GraphWriter,
    name: str,
    attention: Attention,
    x: ir.Value,
    places: Places,
    numbers: ir.Value,
    layer: int,
) -> tuple[ir.Value, list[ir.Value]]:
    """What the attention writes into the stream, and its caches with the new keys and values."""
    spec, tokens = attention.spec, shape_of(x)[1]
    assert spec.causal and spec.query_norm is None, "as GPT-2 and T5 have it"
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
    if attention.score_bias is not None:
        scores = graph.op("Add", f"{name}.biased", [scores, _rows_of_bias(graph, name, attention, numbers)], seen)
    scores = graph.op("Add", f"{name}.masked", [scores, places.unseen], seen)
    weights = graph.op("Softmax", f"{name}.softmax", [scores], seen, {"axis": -1})
    mixed = graph.op("MatMul", f"{name}.mixed", [weights, cached[1]], (1, heads, tokens, dim))
    back = graph.op("Transpose", f"{name}.back", [mixed], (1, tokens, heads, dim), {"perm": [0, 2, 1, 3]})
    flat_shape = (1, tokens, heads * dim)
    flat = graph.op("Reshape", f"{name}.flat", [back, graph.shape(f"{name}.flat.shape", flat_shape)], flat_shape)
    return graph.linear(f"{name}.writer", flat, attention.writer.weight, attention.writer.bias), cached


def _rows_of_bias(graph: GraphWriter, name: str, attention: Attention, numbers: ir.Value) -> ir.Value:
    """The rows `(1, heads, tokens, length)` of a score bias that belong to the tokens' places; zeros for padding."""
    assert attention.score_bias is not None
    heads, length, _ = attention.score_bias.shape
    tokens = shape_of(numbers)[1]
    by_place = torch.nn.functional.pad(attention.score_bias.detach().cpu().transpose(0, 1), (0, 0, 0, 0, 0, 1))
    table = graph.shared_weight(f"{name}.score_bias", by_place)
    rows = graph.op("Gather", f"{name}.bias", [table, numbers], (1, tokens, heads, length))
    return graph.op("Transpose", f"{name}.bias_turned", [rows], (1, heads, tokens, length), {"perm": [0, 2, 1, 3]})
