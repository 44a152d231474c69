"""What T5's encoder and decoder are made of: stems, layers, relative positions, and streams of a bearable size.

Folded at import: the attention that is not divided by √head_dim has the root in its queries, and the one table of
relative positions (of a stack's first layer, by buckets of distances) is looked up for all pairs of places; every layer
holds it, so that layers can be dropped and each can keep heads of its own. Streams that half precision cannot hold are
divided by a power of two, of which no answer takes notice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from coformer_compiler.frontends.hf_checkpoint import Checkpoint
from coformer_compiler.model.attention import Attention
from coformer_compiler.model.bridge import Bridge
from coformer_compiler.model.cross_attention import CrossAttention
from coformer_compiler.model.flow import Block, Flow, flow_from, onward
from coformer_compiler.model.linear import linear_from, linear_over
from coformer_compiler.model.mlp import Mlp
from coformer_compiler.model.norm import Norm
from coformer_compiler.model.residual import Residual
from coformer_compiler.model.spec import AttentionSpec, CrossAttentionSpec, MlpSpec, TokenStemSpec
from coformer_compiler.model.token_stem import TokenStem
from coformer_compiler.model.transformer import Transformer
from coformer_runtime.errors import CoformerError

CALM = 2.0**10
"""The largest value of a stream that leaves float16 room enough for the outliers of other texts."""
TABLE = "{}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"


def length_of(checkpoint: Checkpoint, option: str, default: int) -> int:
    """Tokens of a text, by an option; T5's relative positions have no limit.

    Raises:
        CoformerError: fewer than two.
    """
    length: int = checkpoint.option(option, default)
    if length < 2:
        raise CoformerError(f"{option} = {length}", f"model.options.{option}", "give 2 tokens or more")
    return length


def stem_over(spec: TokenStemSpec, words: torch.Tensor) -> TokenStem:
    """A stem without positions over a copy of the words."""
    with torch.device("meta"):
        stem = TokenStem(spec)
    stem.words = nn.Parameter(words.clone())
    return stem


def words_of(checkpoint: Checkpoint, stack: str) -> torch.Tensor:
    """The table of words of "encoder" or "decoder", which as a rule is one for both."""
    config, prefix = checkpoint.config, checkpoint.prefix
    names = [f"{prefix}{name}" for name in ("shared.weight", f"{stack}.embed_tokens.weight")]
    shape = (config.vocab_size, config.d_model)
    found = [checkpoint.tensor(name, shape) for name in names if checkpoint.has(name)]
    return found[0] if found else checkpoint.tensor(names[0], shape)


def score_bias(checkpoint: Checkpoint, stack: str, length: int) -> torch.Tensor:
    """What every layer of a stack adds to its scores, `(heads, length, length)`."""
    config = checkpoint.config
    buckets = config.relative_attention_num_buckets
    table = checkpoint.tensor(f"{checkpoint.prefix}{TABLE.format(stack)}", (buckets, config.num_heads))
    places = torch.arange(length)
    distances, both = places[None] - places[:, None], stack == "encoder"
    numbers = relative_buckets(distances, buckets, config.relative_attention_max_distance, both=both)
    return table[numbers].permute(2, 0, 1)


def relative_buckets(distances: torch.Tensor, buckets: int, farthest: int, *, both: bool = True) -> torch.Tensor:
    """Bucket numbers of distances (key's place less query's), of any shape, in both directions or backwards alone.

    Half of the buckets for each of two directions; of a direction's, half for one distance each, the others for ranges
    that grow with the logarithm up to `farthest`. (Raffel et al. 2020, section 2.1; the rounding is the original's.)
    """
    side = buckets // 2 if both else buckets
    exact = side // 2
    far = distances.abs() if both else (-distances).clamp(min=0)
    ratio = (far.clamp(min=1).float() / exact).log() / math.log(farthest / exact)
    large = (exact + (ratio * (side - exact)).long()).clamp(max=side - 1)
    found = torch.where(far < exact, far, large)
    return found + (distances > 0) * side if both else found


def layer_of(
    checkpoint: Checkpoint, stack: str, layer: int, number: int, bias: torch.Tensor, remembered: int = 0
) -> list[Residual]:
    """A layer's attention and MLP, in a decoder with cross-attention between them.

    Args:
        checkpoint: read from.
        stack: "encoder" or "decoder".
        layer: of the stack.
        number: of the layer, both stacks counted on.
        bias: `score_bias` of the stack.
        remembered: tokens of the memory, in a decoder.
    """
    config, width = checkpoint.config, checkpoint.config.d_model
    heads, dim, neurons, gated = config.num_heads, config.d_kv, config.d_ff, config.is_gated_act
    base = f"{checkpoint.prefix}{stack}.block.{layer}.layer"
    decodes, last = stack == "decoder", 2 if stack == "decoder" else 1

    def linear(part: str, inputs: int, outputs: int) -> torch.Tensor:
        return checkpoint.tensor(f"{base}.{part}.weight", (outputs, inputs))

    def norm(part: int) -> Norm:
        return checkpoint.norm(f"{base}.{part}.layer_norm", width, config.layer_norm_epsilon, kind="rms")

    def projections(part: str) -> tuple[torch.Tensor, ...]:
        query, key, value = (linear(f"{part}.{name}", width, heads * dim) for name in "qkv")
        return query * math.sqrt(dim), key, value

    with torch.device("meta"):
        attention = Attention(
            AttentionSpec(width, heads, dim, width, False, False, score_bias=bias.shape[-1], causal=decodes)
        )
        mlp = Mlp(MlpSpec(width, neurons, width, checkpoint.activation(config.dense_act_fn), False, False, gated))
    attention.reader = linear_over(torch.cat(projections("0.SelfAttention")), None)
    attention.writer = linear_from(linear("0.SelfAttention.o", heads * dim, width), None)
    attention.score_bias = nn.Parameter(bias.clone())
    read, part = ("wi_0", "wi_1") if gated else ("wi",), f"{last}.DenseReluDense"
    mlp.reader = linear_over(torch.cat([linear(f"{part}.{name}", width, neurons) for name in read]), None)
    mlp.writer = linear_from(linear(f"{part}.wo", neurons, width), None)
    blocks = [Residual.assemble(number, norm(0), attention), Residual.assemble(number, norm(last), mlp)]
    if decodes:
        with torch.device("meta"):
            spec = CrossAttentionSpec(width, width, remembered, heads, dim, width, False, False, False)
            cross = CrossAttention(spec)
        query, key, value = projections("1.EncDecAttention")
        cross.reader, cross.memory_reader = linear_over(query, None), linear_over(torch.cat([key, value]), None)
        cross.writer = linear_from(linear("1.EncDecAttention.o", heads * dim, width), None)
        blocks.insert(1, Residual.assemble(number, norm(1), cross))
    return blocks


def calm_streams(model: Transformer, inputs: torch.Tensor) -> None:
    """Divide each stream by a power of two that brings it within `CALM` on these inputs, if it is beyond.

    T5's streams grow with depth until float16 overflows (huggingface/transformers issues 5651, 9295). RMSNorm divides
    by the stream's own size, so that with its epsilon divided by the square nothing behind any norm changes.
    """
    flow, stem, stage = flow_from(model.stem, inputs), model.stem, list[Residual]()
    largest = _largest(flow)
    for block in model.steps:
        following = onward(block, flow, inputs)
        if isinstance(block, Bridge):
            _divide(stem, stage, block.norm, largest)
            stem, stage, largest = block.stem, [], 0.0
        elif isinstance(block, Residual):
            stage.append(block)
        flow, largest = following, max(largest, _largest(following))
    assert model.pool.norm is not None
    _divide(stem, stage, model.pool.norm, largest)
    model.pool.spec = replace(model.pool.spec, norm=model.pool.norm.spec)


def _largest(flow: Flow) -> float:
    return float(flow.x.abs().max())


def _divide(stem: nn.Module, stage: Sequence[Residual], last: Norm, largest: float) -> None:
    """Divide the stream of one stage, which `last` reads in the end."""
    if not CALM < largest < math.inf:
        return
    assert isinstance(stem, TokenStem)
    by = 2.0 ** math.ceil(math.log2(largest / CALM))
    stem.words.div_(by)
    for block in stage:
        block.branch.writer.weight.div_(by)
    for norm in (*(block.norm for block in stage), last):
        assert norm is not None
        norm.spec = replace(norm.spec, eps=norm.spec.eps / by**2)


def encoder_blocks(checkpoint: Checkpoint, length: int) -> list[Block]:
    """All layers of the encoder."""
    bias = score_bias(checkpoint, "encoder", length)
    return [
        block
        for layer in range(checkpoint.config.num_layers)
        for block in layer_of(checkpoint, "encoder", layer, layer, bias)
    ]


def final_norm(checkpoint: Checkpoint, stack: str) -> Norm:
    """The norm behind a stack's last layer."""
    config, name = checkpoint.config, f"{checkpoint.prefix}{stack}.final_layer_norm"
    return checkpoint.norm(name, config.d_model, config.layer_norm_epsilon, kind="rms")
