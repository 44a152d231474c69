"""What a member's inference is made of: the quantities that a roofline model weighs, for many shapes at once."""

from __future__ import annotations

import numpy as np

from coformer_compiler.model.spec import AttentionSpec, TransformerSpec
from coformer_compiler.profiling.table import Floats, ShapeTable

TERMS = (
    "one inference",
    "pixels",
    "patch products",
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
    stem, attention = teacher.stem, next(b.branch for b in teacher.blocks if isinstance(b.branch, AttentionSpec))
    tokens, patches = stem.tokens, stem.tokens - stem.prefix
    patch = stem.channels * stem.patch_size[0] * stem.patch_size[1]
    embed, shortcuts = shapes.embed.astype(float), shapes.shortcuts
    heads, neurons = shapes.heads.sum(1).astype(float), shapes.neurons.sum(1).astype(float)
    inner = heads * attention.head_dim
    blocks = (shapes.heads > 0).sum(1) + (shapes.neurons > 0).sum(1)
    mix = embed**2 if stem.mix is not None else 0.0 * embed
    weights = 4 * embed * inner + 2 * embed * neurons + (shortcuts * blocks) * embed**2 + patch * embed + mix
    columns = (
        np.ones(len(shapes)),
        np.full(len(shapes), float(stem.channels * stem.image_size[0] * stem.image_size[1])),
        patches * patch * embed + tokens * mix,
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
