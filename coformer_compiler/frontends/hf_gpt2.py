"""GPT-2 (small to XL, DistilGPT2 and whatever else has its configuration): a causal decoder, pre-norm.

Folded at import: Conv1D weights, which are transposed linears; the scale of the scores where the configuration has
another one, into the queries. The head is the table of words; members have a final norm and a basis of their own, so
that the tie ends here. Padding is one more word, of zeros: no token looks at those behind it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from coformer_compiler.frontends.hf_checkpoint import Checkpoint
from coformer_compiler.frontends.hf_encoder import LENGTH, verify_encoder
from coformer_compiler.model.attention import Attention
from coformer_compiler.model.head import Head
from coformer_compiler.model.linear import linear_from, linear_over
from coformer_compiler.model.mlp import Mlp
from coformer_compiler.model.pool import Pool
from coformer_compiler.model.residual import Residual
from coformer_compiler.model.spec import AttentionSpec, HeadSpec, MlpSpec, PoolSpec, TokenStemSpec
from coformer_compiler.model.token_stem import TokenStem
from coformer_compiler.model.transformer import Transformer
from coformer_runtime.errors import CoformerError

OPTIONS = ("length",)
TABLES = (".attn.bias", ".attn.masked_bias")
"""Causal masks that older checkpoints hold."""


@torch.no_grad()
def transformer_from_gpt2(checkpoint: Checkpoint) -> Transformer:
    """The canonical form of GPT-2 with its head, proved equal to the library's on random tokens.

    Raises:
        CoformerError: tensors or options that do not fit; cross-attention; a head for something else than words.
    """
    checkpoint.refuse_unknown_options(OPTIONS)
    _refuse_foreign_parts(checkpoint)
    config = checkpoint.config
    checkpoint.prefix = "transformer." if checkpoint.has("transformer.wte.weight") else ""
    words = checkpoint.tensor(f"{checkpoint.prefix}wte.weight", (config.vocab_size, config.n_embd))
    stem = _stem(checkpoint, words)
    blocks: list[Residual] = []
    for layer in range(config.n_layer):
        blocks += _layer(checkpoint, layer)
    norm = checkpoint.norm(f"{checkpoint.prefix}ln_f", config.n_embd, config.layer_norm_epsilon)
    pool = Pool(PoolSpec("causal", 0, norm.spec, True))
    pool.norm = norm
    if checkpoint.has("lm_head.weight"):
        words = checkpoint.tensor("lm_head.weight", words.shape)
    head = Head.assemble(HeadSpec(config.vocab_size), linear_over(words, torch.zeros(config.vocab_size)))
    checkpoint.refuse_leftovers(TABLES)
    imported = Transformer.assemble(stem, blocks, pool, head).eval()
    verify_encoder(checkpoint, imported)
    return imported


def _refuse_foreign_parts(checkpoint: Checkpoint) -> None:
    config = checkpoint.config
    if config.add_cross_attention:
        raise CoformerError(
            "it has cross-attention", checkpoint.where, "use a decoder that stands alone, without add_cross_attention"
        )
    if config.n_embd % config.n_head:
        raise CoformerError(
            f"{config.n_embd} channels are no multiple of {config.n_head} heads",
            checkpoint.where,
            "correct config.json",
        )
    if not config.tie_word_embeddings and not checkpoint.has("lm_head.weight"):
        raise CoformerError(
            "its head is not tied to the words, and 'lm_head.weight' is missing",
            checkpoint.where,
            "copy the whole checkpoint, of a model that continues texts",
        )
    if checkpoint.has("score.weight"):
        raise CoformerError(
            "its head tells classes",
            checkpoint.where,
            "use a GPT-2 that continues texts, or an encoder (BERT, T5) to tell classes",
        )


def _stem(checkpoint: Checkpoint, words: torch.Tensor) -> TokenStem:
    config = checkpoint.config
    length = checkpoint.option("length", min(LENGTH, config.n_positions))
    if not 2 <= length <= config.n_positions:
        raise CoformerError(
            f"length = {length}, and the model has positions for 2 to {config.n_positions} tokens",
            "model.options.length",
            "give a length between these",
        )
    with torch.device("meta"):
        stem = TokenStem(TokenStemSpec(length, config.vocab_size + 1, config.vocab_size, config.n_embd))
    positions = checkpoint.tensor(f"{checkpoint.prefix}wpe.weight", (config.n_positions, config.n_embd))
    stem.words = nn.Parameter(torch.cat([words, torch.zeros(1, config.n_embd)]))
    stem.positions = nn.Parameter(positions[:length].clone())
    return stem


def _layer(checkpoint: Checkpoint, layer: int) -> list[Residual]:
    """The layer's attention and MLP."""
    config, width = checkpoint.config, checkpoint.config.n_embd
    heads, neurons = config.n_head, config.n_inner or 4 * checkpoint.config.n_embd
    name, dim = f"{checkpoint.prefix}h.{layer}", config.n_embd // config.n_head

    def conv1d(part: str, inputs: int, outputs: int) -> nn.Linear:
        weight = checkpoint.tensor(f"{name}.{part}.weight", (inputs, outputs))
        return linear_over(weight.T, checkpoint.tensor(f"{name}.{part}.bias", (outputs,)))

    def norm(part: str) -> Any:
        return checkpoint.norm(f"{name}.{part}", width, config.layer_norm_epsilon)

    with torch.device("meta"):
        attention = Attention(AttentionSpec(width, heads, dim, width, causal=True))
        mlp = Mlp(MlpSpec(width, neurons, width, checkpoint.activation(config.activation_function)))
    attention.reader, attention.writer = conv1d("attn.c_attn", width, 3 * width), conv1d("attn.c_proj", width, width)
    scale = 1.0 if config.scale_attn_weights else math.sqrt(dim)
    scale /= layer + 1 if config.scale_attn_by_inverse_layer_idx else 1
    if scale != 1:
        attention.reader = linear_from(attention.reader.weight, attention.reader.bias)
        attention.reader.weight[:width] *= scale
        attention.reader.bias[:width] *= scale
    mlp.reader, mlp.writer = conv1d("mlp.c_fc", width, neurons), conv1d("mlp.c_proj", neurons, width)
    return [Residual.assemble(layer, norm("ln_1"), attention), Residual.assemble(layer, norm("ln_2"), mlp)]
