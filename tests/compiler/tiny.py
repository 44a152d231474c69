"""Tiny transformers of every kind, with random weights of which none is trivially zero, and inputs for them."""

from __future__ import annotations

from typing import Literal

import torch

from coformer_compiler.model.patch_stem import PatchStem
from coformer_compiler.model.spec import (
    Activation,
    AttentionSpec,
    BridgeSpec,
    CrossAttentionSpec,
    HeadSpec,
    MergeSpec,
    MlpSpec,
    NormKind,
    NormSpec,
    PatchStemSpec,
    PoolSpec,
    ResidualSpec,
    TokenStemSpec,
    TransformerSpec,
    WindowSpec,
)
from coformer_compiler.model.transformer import Transformer


def tiny_spec(
    *,
    embed: int = 12,
    heads: int = 3,
    head_dim: int = 4,
    neurons: int = 20,
    layers: int = 2,
    image: tuple[int, int] = (8, 12),
    patch: tuple[int, int] = (4, 4),
    channels: int = 1,
    prefix: int = 1,
    pool: Literal["prefix", "mean"] = "prefix",
    count: int = 1,
    norm: NormKind = "layer",
    norm_first: bool = True,
    final_norm: bool = True,
    activation: Activation = "gelu",
    query_norm: bool = False,
    reader_bias: bool = True,
    stem_norm: bool = False,
    mix: int | None = None,
    shortcut: bool = False,
    score_bias: bool = False,
    classes: int = 5,
) -> TransformerSpec:
    """A spec of unlike numbers, so that no two axes can be mistaken for each other."""
    stem = PatchStemSpec(image, patch, channels, embed, prefix, NormSpec(embed, norm) if stem_norm else None, mix)
    width = stem.out
    plain = NormSpec(width, norm)
    per_head = NormSpec(head_dim, norm) if query_norm else None
    blocks = []
    for layer in range(layers):
        attention = AttentionSpec(
            width, heads, head_dim, width, reader_bias, True, per_head, stem.tokens if score_bias else None
        )
        mlp = MlpSpec(width, neurons, width, activation, reader_bias, True)
        blocks += [ResidualSpec(layer, plain, attention, shortcut), ResidualSpec(layer, plain, mlp, shortcut)]
    return TransformerSpec(
        stem, tuple(blocks), PoolSpec(pool, count, plain if final_norm else None, norm_first), HeadSpec(classes)
    )


def tiny_swin(*, embeds: tuple[int, ...] = (12, 18), shift: int = 1, classes: int = 5) -> TransformerSpec:
    """Two layers a stage, of windows and of moved ones; stages of unlike width; grids that are not square."""
    grid = (4, 8)
    stem = PatchStemSpec((8, 16), (2, 2), 1, embeds[0], 0, NormSpec(embeds[0]), positions=False)
    blocks: list[ResidualSpec | MergeSpec] = []
    for stage, width in enumerate(embeds):
        for layer in (2 * stage, 2 * stage + 1):
            moved = shift * (layer % 2)
            window = WindowSpec(grid, (2, 2), (moved, moved))
            attention = AttentionSpec(width, 2 + stage, 4, width, score_bias=4, window=window)
            blocks += [
                ResidualSpec(layer, NormSpec(width), attention),
                ResidualSpec(layer, NormSpec(width), MlpSpec(width, 20 + 4 * stage, width)),
            ]
        if stage + 1 < len(embeds):
            blocks.append(MergeSpec(grid, width, NormSpec(4 * width), embeds[stage + 1]))
            grid = (grid[0] // 2, grid[1] // 2)
    return TransformerSpec(stem, tuple(blocks), PoolSpec("mean", 0, NormSpec(embeds[-1]), True), HeadSpec(classes))


def tiny_encoder(
    *,
    length: int = 9,
    types: int = 1,
    embed: int = 12,
    stem_norm: bool = False,
    mix: int | None = None,
    layers: int = 2,
    pool: Literal["prefix", "mean"] = "prefix",
    head: HeadSpec | None = None,
    post_norm: bool = True,
) -> TransformerSpec:
    """A post-norm encoder of texts, as BERT is; with a mix, as ELECTRA's small one."""
    stem = TokenStemSpec(length, 23, 0, embed, types, NormSpec(embed) if stem_norm else None, mix)
    width = stem.out
    plain = NormSpec(width, eps=1e-12)
    blocks = []
    for layer in range(layers):
        first = None if stem_norm and layer == 0 else plain
        attention, mlp = AttentionSpec(width, 3, 4, width), MlpSpec(width, 20, width)
        blocks += [
            ResidualSpec(layer, first, attention, post_norm=post_norm),
            ResidualSpec(layer, plain, mlp, post_norm=post_norm),
        ]
    return TransformerSpec(stem, tuple(blocks), PoolSpec(pool, int(pool == "prefix"), plain, True), head or HeadSpec(5))


def tiny_t5(
    *, embed: int = 12, heads: int = 3, head_dim: int = 5, neurons: int = 20, gated: bool = True
) -> TransformerSpec:
    """A pre-norm encoder of texts with RMSNorm, relative positions and no bias, as T5 is (gated: Flan-T5)."""
    stem, plain = TokenStemSpec(9, 23, 0, embed, positions=False), NormSpec(embed, "rms")
    blocks = []
    for layer in range(2):
        attention = AttentionSpec(embed, heads, head_dim, embed, False, False, score_bias=9)
        mlp = MlpSpec(embed, neurons, embed, "gelu_tanh" if gated else "relu", False, False, gated)
        blocks += [ResidualSpec(layer, plain, attention), ResidualSpec(layer, plain, mlp)]
    return TransformerSpec(stem, tuple(blocks), PoolSpec("mean", 0, plain, True), HeadSpec(5))


def tiny_decoder(*, layers: int = 2, embed: int = 12, length: int = 9, words: int = 23) -> TransformerSpec:
    """A causal pre-norm decoder, as GPT-2 is."""
    stem, plain = TokenStemSpec(length, words + 1, words, embed), NormSpec(embed, eps=1e-5)
    blocks = []
    for layer in range(layers):
        attention, mlp = AttentionSpec(embed, 3, 4, embed, causal=True), MlpSpec(embed, 20, embed, "gelu_tanh")
        blocks += [ResidualSpec(layer, plain, attention), ResidualSpec(layer, plain, mlp)]
    return TransformerSpec(stem, tuple(blocks), PoolSpec("causal", 0, plain, True), HeadSpec(words))


def tiny_seq2seq(*, gated: bool = True, embeds: tuple[int, int] = (12, 10)) -> TransformerSpec:
    """An encoder and a decoder as T5 has them, with streams of unlike width and texts of unlike length."""
    read, written, words = 9, 6, 23
    stem = TokenStemSpec(read, words, 0, embeds[0], positions=False, behind=written)
    text = TokenStemSpec(written, words + 1, words, embeds[1], positions=False, before=read)
    blocks: list[ResidualSpec | MergeSpec | BridgeSpec] = []
    for stage, width in enumerate(embeds):
        plain = NormSpec(width, "rms")
        for layer in (2 * stage, 2 * stage + 1):
            places = (read, written)[stage]
            attention = AttentionSpec(width, 3, 5, width, False, False, score_bias=places, causal=stage == 1)
            cross = CrossAttentionSpec(width, embeds[0], read, 3, 5, width, False, False, False)
            mlp = MlpSpec(width, 20, width, "gelu_tanh" if gated else "relu", False, False, gated)
            branches = (attention, cross, mlp) if stage else (attention, mlp)
            blocks += [ResidualSpec(layer, plain, branch) for branch in branches]
        if stage == 0:
            blocks.append(BridgeSpec(plain, text, 0))
    return TransformerSpec(
        stem, tuple(blocks), PoolSpec("causal", 0, NormSpec(embeds[1], "rms"), True), HeadSpec(words)
    )


VARIANTS: dict[str, TransformerSpec] = {
    "class token": tiny_spec(),
    "three colours": tiny_spec(channels=3, patch=(4, 2)),
    "mean of normed tokens": tiny_spec(prefix=0, pool="mean", count=0),
    "norm of the mean": tiny_spec(prefix=0, pool="mean", count=0, norm_first=False),
    "mean without prefix": tiny_spec(prefix=3, pool="mean", count=3, norm_first=False),
    "mean with prefix": tiny_spec(prefix=2, pool="mean", count=0),
    "distilled": tiny_spec(prefix=2, count=2),
    "registers": tiny_spec(prefix=4, count=1),
    "no final norm": tiny_spec(final_norm=False),
    "query norm": tiny_spec(query_norm=True),
    "rms": tiny_spec(norm="rms"),
    "rms query norm": tiny_spec(norm="rms", query_norm=True, pool="mean", count=1),
    "score bias": tiny_spec(score_bias=True),
    "no reader bias": tiny_spec(reader_bias=False),
    "stem norm": tiny_spec(stem_norm=True),
    "stem norm and mix": tiny_spec(stem_norm=True, mix=10),
    "shortcuts": tiny_spec(shortcut=True),
    "gelu_tanh": tiny_spec(activation="gelu_tanh"),
    "relu": tiny_spec(activation="relu"),
    "silu": tiny_spec(activation="silu"),
    "quick_gelu": tiny_spec(activation="quick_gelu"),
    "stages and windows": tiny_swin(),
    "text, post-norm": tiny_encoder(),
    "text, pooler": tiny_encoder(head=HeadSpec(5, 7)),
    "text, pairs": tiny_encoder(types=2, head=HeadSpec(5, 7, "gelu")),
    "text, mean": tiny_encoder(pool="mean", head=HeadSpec(6, normalise=True)),
    "text, pre-norm": tiny_encoder(post_norm=False, pool="mean"),
    "text, T5": tiny_t5(gated=False),
    "text, T5 gated": tiny_t5(),
    "text, causal": tiny_decoder(),
    "texts, encoder and decoder": tiny_seq2seq(),
    "text, projected": tiny_encoder(embed=8, stem_norm=True, mix=12),
}


@torch.no_grad()
def random_model(spec: TransformerSpec, seed: int = 0) -> Transformer:
    """A model whose every parameter is random, scaled so that streams and logits are of the order of one."""
    random = torch.Generator().manual_seed(seed)
    model = Transformer(spec).eval()
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=random)
        if "norm" in name:
            parameter.copy_((1 if name.endswith("weight") else 0) + 0.3 * noise)
        elif name.endswith("stem.words"):
            parameter.copy_(noise)
        elif parameter.ndim > 1 and name.endswith("weight"):
            parameter.copy_(noise / parameter[0].numel() ** 0.5)
        else:
            parameter.copy_(0.5 * noise)
    if isinstance(model.stem, PatchStem):
        channels = model.stem.spec.channels
        model.stem.mean.copy_(110 + 20 * torch.rand(channels, generator=random))
        model.stem.std.copy_(60 + 10 * torch.rand(channels, generator=random))
    return model


def random_inputs(spec: TransformerSpec, samples: int, seed: int = 0) -> torch.Tensor:
    """Pixels uint8, or token numbers int32 of texts of unlike lengths, `(samples, *stem input)`."""
    random = torch.Generator().manual_seed(seed)
    stem = spec.stem
    if isinstance(stem, PatchStemSpec):
        shape = (samples, stem.channels, *stem.image_size)
        return torch.randint(0, 256, shape, generator=random, dtype=torch.uint8)
    first, end = (1, stem.vocabulary) if stem.pad == 0 else (0, stem.pad)
    words = torch.randint(first, end, (samples, stem.length), generator=random, dtype=torch.int32)
    lengths = torch.randint(2, stem.length + 1, (samples, 1), generator=random)
    words = torch.where(torch.arange(stem.length) < lengths, words, stem.pad)
    if spec.bridge is not None:
        text, start = spec.bridge.stem, spec.bridge.start
        written = torch.randint(0, text.pad, (samples, text.length), generator=random, dtype=torch.int32)
        written[:, 0] = start
        ends = torch.randint(1, text.length + 1, (samples, 1), generator=random)
        return torch.cat([words, torch.where(torch.arange(text.length) < ends, written, text.pad)], 1)
    if stem.types == 1:
        return words
    return torch.stack([words, (torch.arange(stem.length) >= lengths // 2).expand_as(words).int()], 1)
