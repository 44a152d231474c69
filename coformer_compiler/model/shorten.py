"""A model of texts at a shorter length: the same weights, fewer places."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from coformer_compiler.model.attention import Attention
from coformer_compiler.model.residual import Residual
from coformer_compiler.model.token_stem import TokenStem
from coformer_compiler.model.transformer import Transformer


@torch.no_grad()
def at_length(model: Transformer, length: int) -> Transformer:
    """The model for texts of at most `length` tokens.

    Padding comes last and counts nowhere, so that a text which fits has the same features at every length. The tables
    of positions, and those of relative positions in attention, end earlier; all other weights are the model's own.
    """
    stem = model.stem
    assert isinstance(stem, TokenStem) and model.spec.pool.kind != "causal", "texts that are read whole"
    blocks = [_shorter(block, length) if isinstance(block, Residual) else block for block in model.steps]
    return Transformer.assemble(_stem(stem, length), blocks, model.pool, model.head).eval()


def _stem(stem: TokenStem, length: int) -> TokenStem:
    with torch.device("meta"):
        made = TokenStem(replace(stem.spec, length=length))
    made.words, made.types, made.norm, made.mix = stem.words, stem.types, stem.norm, stem.mix
    made.positions = None if stem.positions is None else nn.Parameter(stem.positions[:length])
    return made


def _shorter(block: Residual, length: int) -> Residual:
    attention = block.branch
    if not isinstance(attention, Attention) or attention.score_bias is None:
        return block
    made = attention.with_units(range(attention.units), attention.readers, attention.writer)
    made.spec = replace(made.spec, score_bias=length)
    made.score_bias = nn.Parameter(attention.score_bias[:, :length, :length])
    return Residual.assemble(block.layer, block.norm, made, block.shortcut, post_norm=block.post_norm)
