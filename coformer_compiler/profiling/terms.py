"""What a member's inference is made of: the quantities that a roofline model weighs, for many shapes at once."""

from __future__ import annotations

import math

import numpy as np

from coformer_compiler.model.spec import AttentionSpec, PatchStemSpec, StemSpec, TransformerSpec
from coformer_compiler.profiling.table import Floats, ShapeTable

TERMS = (
    "one inference",
    "input elements",
    "stem products",
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


def kernel_terms(teacher: TransformerSpec, shapes: ShapeTable) -> Floats:
    """`(rows, len(TERMS))` of members of `teacher`."""
    tokens = teacher.stem.tokens
    head_dim = next(b.branch.head_dim for b in teacher.residuals if isinstance(b.branch, AttentionSpec))
    embed, shortcuts = shapes.embed.astype(float), shapes.shortcuts | int(teacher.post_norm)
    heads, neurons = shapes.heads.sum(1).astype(float), shapes.neurons.sum(1).astype(float)
    inner = heads * head_dim
    blocks = (shapes.heads > 0).sum(1) + (shapes.neurons > 0).sum(1)
    stem_products, stem_weights = _stem(teacher.stem, embed)
    weights = 4 * embed * inner + 2 * embed * neurons + (shortcuts * blocks) * embed**2 + stem_weights
    columns = (
        np.ones(len(shapes)),
        np.full(len(shapes), float(math.prod(teacher.stem.input.shape))),
        stem_products,
        blocks,
        (blocks + 2) * tokens * embed,
        4 * tokens * embed * inner,
        2 * tokens * embed * neurons,
        shortcuts * blocks * tokens * embed**2,
        2 * tokens**2 * inner,
        tokens**2 * heads,
        heads,
        tokens * inner,
        tokens * neurons,
        weights,
    )
    return np.stack([np.asarray(column, float) for column in columns], axis=1)


def _stem(stem: StemSpec, embed: Floats) -> tuple[Floats, Floats]:
    """Multiply-accumulates and weights of stems that end in `embed` `(rows,)`; tables of words do not count."""
    inner = embed if stem.norm is None else np.minimum(embed, stem.embed)
    mix = 0.0 * embed if stem.norm is None else inner * embed
    patch, places = 0, 0
    if isinstance(stem, PatchStemSpec):
        patch, places = stem.channels * stem.patch_size[0] * stem.patch_size[1], stem.tokens - stem.prefix
    return places * patch * inner + stem.tokens * mix, patch * inner + mix


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
