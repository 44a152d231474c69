"""T5, T5 v1.1, Flan-T5 and mT5, encoder alone: pre-norm, RMSNorm, relative positions, no bias anywhere.

Folded at import: the attention that is not divided by √head_dim has the root in its queries, and the one table of
relative positions (of the first layer's, by buckets of distances) is looked up for all pairs of places; every layer
holds it, so that layers can be dropped and each can keep heads of its own. Streams that half precision cannot hold are
divided by a power of two, of which no answer takes notice.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from coformer_compiler.frontends.hf_checkpoint import Checkpoint
from coformer_compiler.frontends.hf_encoder import LENGTH, random_ids, verify_encoder
from coformer_compiler.frontends.hf_sentence import embedding_head
from coformer_compiler.model.attention import Attention
from coformer_compiler.model.head import Head
from coformer_compiler.model.linear import linear_from
from coformer_compiler.model.mlp import Mlp
from coformer_compiler.model.pool import Pool
from coformer_compiler.model.residual import Residual
from coformer_compiler.model.spec import AttentionSpec, HeadSpec, MlpSpec, PoolSpec, TokenStemSpec
from coformer_compiler.model.token_stem import TokenStem
from coformer_compiler.model.transformer import Transformer
from coformer_runtime.errors import CoformerError

OPTIONS = ("length", "normalise", "part")
CALM = 2.0**10
"""The largest value of a stream that leaves float16 room enough for the outliers of other texts."""
TABLE = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
BEHIND_DECODER = ("lm_head.", "classification_head.", "qa_outputs.")
ENCODER_ONLY = ("EncoderModel", "ForTokenClassification")
"""How the library's classes without a decoder end."""


@torch.no_grad()
def transformer_from_t5(checkpoint: Checkpoint) -> Transformer:
    """The canonical form of the encoder and the mean of its last hidden states, proved equal to the library's.

    Raises:
        CoformerError: tensors or options that do not fit; a decoder that nobody has asked to leave out.
    """
    checkpoint.refuse_unknown_options(OPTIONS)
    config = checkpoint.config
    checkpoint.prefix = "transformer." if checkpoint.has(f"transformer.{TABLE}") else ""
    _refuse_decoder(checkpoint)
    stem = _stem(checkpoint)
    bias = _score_bias(checkpoint, stem.spec.length)
    blocks: list[Residual] = []
    for layer in range(config.num_layers):
        blocks += _layer(checkpoint, layer, bias)
    norm = checkpoint.norm(
        f"{checkpoint.prefix}encoder.final_layer_norm", config.d_model, config.layer_norm_epsilon, kind="rms"
    )
    pool = Pool(PoolSpec("mean", 0, norm.spec, True))
    pool.norm = norm
    head = _classifier(checkpoint) or embedding_head(checkpoint)
    checkpoint.refuse_leftovers((f"{checkpoint.prefix}decoder.", *BEHIND_DECODER))
    imported = Transformer.assemble(stem, blocks, pool, head).eval()
    calm_stream(imported)
    verify_encoder(checkpoint, imported)
    return imported


def _refuse_decoder(checkpoint: Checkpoint) -> None:
    """Refuse a decoder that the options do not leave out.

    Raises:
        CoformerError: the tensors or config.json's architectures have one, and nobody has said to do without.
    """
    part = checkpoint.option("part", "whole")
    if part not in ("whole", "encoder"):
        raise CoformerError(f"part = '{part}'", "model.options.part", "give 'encoder', or leave it away")
    named = [name for name in checkpoint.raw.get("architectures") or () if not name.endswith(ENCODER_ONLY)]
    if part == "whole" and (
        named or any(name.startswith(f"{checkpoint.prefix}decoder.") for name in checkpoint.tensors)
    ):
        there = f" ({', '.join(named)})" if named else ""
        raise CoformerError(
            f"a {checkpoint.config.model_type} with a decoder is not supported{there}",
            checkpoint.where,
            "the nearest that is: its encoder, for classification and embeddings; set model.options.part = 'encoder'",
        )


def _stem(checkpoint: Checkpoint) -> TokenStem:
    config, prefix = checkpoint.config, checkpoint.prefix
    length = checkpoint.option("length", LENGTH)
    if length < 2:
        raise CoformerError(f"length = {length}", "model.options.length", "give 2 tokens or more")
    names = [f"{prefix}{name}" for name in ("shared.weight", "encoder.embed_tokens.weight")]
    shape = (config.vocab_size, config.d_model)
    found = [checkpoint.tensor(name, shape) for name in names if checkpoint.has(name)]
    words = found[0] if found else checkpoint.tensor(names[0], shape)
    with torch.device("meta"):
        stem = TokenStem(
            TokenStemSpec(length, config.vocab_size, config.pad_token_id or 0, config.d_model, positions=False)
        )
    stem.words = nn.Parameter(words.clone())
    return stem


def _score_bias(checkpoint: Checkpoint, length: int) -> torch.Tensor:
    """What every layer adds to its scores, `(heads, length, length)`."""
    config = checkpoint.config
    buckets = config.relative_attention_num_buckets
    table = checkpoint.tensor(f"{checkpoint.prefix}{TABLE}", (buckets, config.num_heads))
    places = torch.arange(length)
    numbers = relative_buckets(places[None] - places[:, None], buckets, config.relative_attention_max_distance)
    return table[numbers].permute(2, 0, 1)


def relative_buckets(distances: torch.Tensor, buckets: int, farthest: int) -> torch.Tensor:
    """Bucket numbers of distances (key's place less query's), of any shape, both directions.

    Half of the buckets for each direction; of these, half for one distance each, the others for ranges that grow with
    the logarithm up to `farthest`. (Raffel et al. 2020, section 2.1; the rounding is the original's.)
    """
    side = buckets // 2
    exact = side // 2
    far = distances.abs()
    ratio = (far.clamp(min=1).float() / exact).log() / math.log(farthest / exact)
    large = (exact + (ratio * (side - exact)).long()).clamp(max=side - 1)
    return torch.where(far < exact, far, large) + (distances > 0) * side


def _layer(checkpoint: Checkpoint, layer: int, bias: torch.Tensor) -> list[Residual]:
    """The layer's attention and MLP."""
    config, width = checkpoint.config, checkpoint.config.d_model
    heads, dim, neurons = config.num_heads, config.d_kv, config.d_ff
    gated, eps = config.is_gated_act, config.layer_norm_epsilon

    def linear(part: str, inputs: int, outputs: int) -> torch.Tensor:
        name = f"{checkpoint.prefix}encoder.block.{layer}.layer.{part}.weight"
        return checkpoint.tensor(name, (outputs, inputs))

    def norm(part: int) -> Any:
        name = f"{checkpoint.prefix}encoder.block.{layer}.layer.{part}.layer_norm"
        return checkpoint.norm(name, width, eps, kind="rms")

    with torch.device("meta"):
        attention = Attention(AttentionSpec(width, heads, dim, width, False, False, score_bias=bias.shape[-1]))
        mlp = Mlp(MlpSpec(width, neurons, width, checkpoint.activation(config.dense_act_fn), False, False, gated))
    query, key, value = (linear(f"0.SelfAttention.{part}", width, heads * dim) for part in "qkv")
    attention.reader = linear_from(torch.cat([query * math.sqrt(dim), key, value]), None)
    attention.writer = linear_from(linear("0.SelfAttention.o", heads * dim, width), None)
    attention.score_bias = nn.Parameter(bias.clone())
    read = ("wi_0", "wi_1") if gated else ("wi",)
    mlp.reader = linear_from(torch.cat([linear(f"1.DenseReluDense.{part}", width, neurons) for part in read]), None)
    mlp.writer = linear_from(linear("1.DenseReluDense.wo", neurons, width), None)
    return [Residual.assemble(layer, norm(0), attention), Residual.assemble(layer, norm(1), mlp)]


def calm_stream(model: Transformer) -> None:
    """Divide the stream by a power of two that brings it within `CALM` on random words, if it is beyond.

    T5's streams grow with depth until float16 overflows (huggingface/transformers issues 5651, 9295). RMSNorm divides
    by the stream's own size, so that with its epsilon divided by the square nothing behind any norm changes.
    """
    stem = model.stem
    assert isinstance(stem, TokenStem)
    ids = random_ids(stem.spec)
    mask, x = stem.mask(ids), stem(ids)
    largest = float(x.abs().max())
    for block in model.residuals:
        x = block(x, mask)
        largest = max(largest, float(x.abs().max()))
    if not CALM < largest < math.inf:
        return
    by = 2.0 ** math.ceil(math.log2(largest / CALM))
    stem.words.div_(by)
    for block in model.residuals:
        block.branch.writer.weight.div_(by)
    for norm in (*(block.norm for block in model.residuals), model.pool.norm):
        assert norm is not None
        norm.spec = replace(norm.spec, eps=norm.spec.eps / by**2)
    model.pool.spec = replace(model.pool.spec, norm=None if model.pool.norm is None else model.pool.norm.spec)


def _classifier(checkpoint: Checkpoint) -> Head | None:
    """One linear behind the mean, as the library's for tokens; the library's for sequences reads the decoder."""
    if not checkpoint.has("classifier.weight"):
        return None
    classes = len(checkpoint.tensors["classifier.weight"])
    return Head.assemble(HeadSpec(classes), checkpoint.linear("classifier", checkpoint.config.d_model, classes))
