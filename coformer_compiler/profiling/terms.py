"""What a member's inference is made of: the quantities that a roofline model weighs, for many shapes at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coformer_compiler.model.merge import PARTS
from coformer_compiler.model.spec import (
    AttentionSpec,
    BridgeSpec,
    CrossAttentionSpec,
    MergeSpec,
    PatchStemSpec,
    TransformerSpec,
)
from coformer_compiler.profiling.table import Floats, Integers, ShapeTable

TERMS = (
    "one inference",
    "input elements",
    "stem and merge products",
    "sub-blocks",
    "stream elements",
    "attention products",
    "mlp products",
    "shortcut products",
    "score products",
    "score elements",
    "heads",
    "head elements",
    "neuron elements",
    "weights",
)
"""Products count multiply-accumulates; the others count elements that a kernel reads or writes, or kernel calls."""

PAPER = ("layers", "embed dim", "mean heads", "mean MLP width")
"""The four features of the paper's predictor."""


@dataclass(frozen=True)
class _Layers:
    """The teacher's layers, one entry each.

    Attributes:
        tokens: of the stream there.
        seen: tokens that each token attends to: all of them, or those of its window.
        head_dim: of its heads.
        linears: of its MLP that are as wide as its neurons: three where these are gated, else two.
        stage: which stage it belongs to.
        remembered: tokens of the memory that its cross-attention reads; 0 without one.
    """

    tokens: Floats
    seen: Floats
    head_dim: Floats
    linears: Floats
    stage: Integers
    remembered: Floats


def _layers(teacher: TransformerSpec) -> tuple[_Layers, list[float]]:
    """The layers, and the tokens of each stage's stream."""
    tokens, rows, linears = [float(teacher.stem.tokens)], [], []
    remembered = dict.fromkeys(teacher.layers, 0.0)
    for stage, block in zip(teacher.stages, teacher.blocks, strict=False):
        if isinstance(block, MergeSpec):
            tokens.append(tokens[-1] / PARTS)
        elif isinstance(block, BridgeSpec):
            tokens.append(float(block.stem.tokens))
        elif isinstance(block.branch, CrossAttentionSpec):
            remembered[block.layer] = float(block.branch.tokens)
        elif isinstance(block.branch, AttentionSpec):
            window = block.branch.window
            seen = tokens[-1] if window is None else float(window.tokens)
            rows.append((tokens[-1], seen, float(block.branch.head_dim), stage))
        else:
            linears.append(3.0 if block.branch.gated else 2.0)
    along, seen_by, head_dims, stages = (np.array(column) for column in zip(*rows, strict=True))
    reads = np.array([*remembered.values()])
    return _Layers(along, seen_by, head_dims, np.array(linears), stages.astype(np.int64), reads), tokens


def kernel_terms(teacher: TransformerSpec, shapes: ShapeTable) -> Floats:
    """`(rows, len(TERMS))` of members of `teacher`."""
    layers, tokens = _layers(teacher)
    widths = stage_widths_of(teacher.embeds, shapes.embed)
    width = widths[:, layers.stage]
    heads, neurons = shapes.heads.astype(float), shapes.neurons.astype(float)
    inner = heads * layers.head_dim
    # Cross-attention reads the memory, as wide as the first stage, for keys and values, and the stream for queries.
    reads, crossing, memory = layers.remembered, inner * (layers.remembered > 0), widths[:, :1]
    kept = (shapes.heads > 0) * (1.0 + (reads > 0)) + (shapes.neurons > 0)
    shortcuts = (shapes.shortcuts | int(teacher.post_norm))[:, None] * kept * width**2
    stem_products, stem_weights = _ends(teacher, widths, tokens)
    weights = (4 * width * inner + layers.linears * width * neurons + shortcuts).sum(1) + stem_weights
    weights += (2 * (width + memory) * crossing).sum(1)
    columns = (
        np.ones(len(shapes)),
        np.full(len(shapes), float(math.prod(teacher.stem.input.shape))),
        stem_products,
        kept.sum(1),
        (kept * layers.tokens * width).sum(1) + 2 * tokens[0] * widths[:, 0],
        (4 * layers.tokens * width * inner + 2 * (layers.tokens * width + reads * memory) * crossing).sum(1),
        (layers.linears * layers.tokens * width * neurons).sum(1),
        (layers.tokens * shortcuts).sum(1),
        (2 * layers.tokens * (layers.seen * inner + reads * crossing)).sum(1),
        (layers.tokens * (layers.seen + reads) * heads).sum(1),
        (heads * (1 + (reads > 0))).sum(1),
        (layers.tokens * (inner + crossing)).sum(1),
        (layers.tokens * neurons).sum(1),
        weights,
    )
    return np.stack([np.asarray(column, float) for column in columns], axis=1)


def stage_widths_of(embeds: Sequence[int], embed: Integers) -> Floats:
    """`(rows, stages)`: `stage_widths` of many members."""
    return np.stack([embed * each // embeds[0] for each in embeds], axis=1).astype(np.float64)


def _ends(teacher: TransformerSpec, widths: Floats, tokens: Sequence[float]) -> tuple[Floats, Floats]:
    """Multiply-accumulates and weights of stem and merges; tables of words do not count."""
    stem, embed = teacher.stem, widths[:, 0]
    inner = embed if stem.norm is None else np.minimum(embed, stem.embed)
    mix = 0.0 * embed if stem.norm is None else inner * embed
    patch, places = 0, 0
    if isinstance(stem, PatchStemSpec):
        patch, places = stem.channels * stem.patch_size[0] * stem.patch_size[1], stem.tokens - stem.prefix
    products, weights = places * patch * inner + stem.tokens * mix, patch * inner + mix
    for stage in range(1, len(tokens) if teacher.bridge is None else 1):
        merge = PARTS * widths[:, stage - 1] * widths[:, stage]
        products, weights = products + tokens[stage] * merge, weights + merge
    return products, weights


PRODUCTS = tuple(n for n, term in enumerate(TERMS) if term.endswith("products"))


def flops_of(teacher: TransformerSpec, shapes: ShapeTable) -> Floats:
    """`(rows,)` operations of one inference, as `Cost.flops` counts them."""
    found: Floats = 2 * kernel_terms(teacher, shapes)[:, PRODUCTS].sum(1)
    return found


def paper_features(shapes: ShapeTable) -> Floats:
    """`(rows, 4)`: l, d, mean heads and mean MLP width over the kept layers."""
    layers = (shapes.heads > 0).sum(1)
    means = [counts.sum(1) / np.maximum(layers, 1) for counts in (shapes.heads, shapes.neurons)]
    return np.stack([layers.astype(float), shapes.embed.astype(float), *means], axis=1)
