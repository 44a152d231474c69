"""T5 with its decoder: a text in, a text out, teacher-forced.

The decoder's text has a padding word of its own, one more word of zeros: T5 begins texts with the word that it pads
with. The head is the table of words where the two are tied (times d_model^-0.5, as T5 v1.0 was trained), else its own.
"""

from __future__ import annotations

import torch

from coformer_compiler.frontends.hf_checkpoint import Checkpoint
from coformer_compiler.frontends.hf_encoder import LENGTH, TOLERANCE, random_ids
from coformer_compiler.frontends.hf_t5_parts import (
    calm_streams,
    encoder_blocks,
    final_norm,
    layer_of,
    length_of,
    score_bias,
    stem_over,
    words_of,
)
from coformer_compiler.model.bridge import Bridge
from coformer_compiler.model.flow import Block
from coformer_compiler.model.head import Head
from coformer_compiler.model.linear import linear_over
from coformer_compiler.model.pool import Pool
from coformer_compiler.model.spec import HeadSpec, PoolSpec, TokenStemSpec
from coformer_compiler.model.transformer import Transformer
from coformer_runtime.errors import CheckFailed, CoformerError

OPTIONS = ("length", "target_length", "part")
TARGET_LENGTH = 64
"""Tokens of what is written where the options say nothing."""
UNUSED = ("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",)
"""A table that the first checkpoints hold, and nothing reads."""


def transformer_from_whole_t5(checkpoint: Checkpoint) -> Transformer:
    """The canonical form of encoder, decoder and head, proved equal to the library's on random texts.

    Raises:
        CoformerError: tensors or options that do not fit.
    """
    checkpoint.refuse_unknown_options(OPTIONS)
    config, width = checkpoint.config, checkpoint.config.d_model
    read = length_of(checkpoint, "length", LENGTH)
    written = length_of(checkpoint, "target_length", TARGET_LENGTH)
    pad, vocabulary = config.pad_token_id or 0, config.vocab_size
    stem = stem_over(
        TokenStemSpec(read, vocabulary, pad, width, positions=False, behind=written), words_of(checkpoint, "encoder")
    )
    words = words_of(checkpoint, "decoder")
    text = stem_over(
        TokenStemSpec(written, vocabulary + 1, vocabulary, width, positions=False, before=read),
        torch.cat([words, torch.zeros(1, width)]),
    )
    bridge = Bridge.assemble(final_norm(checkpoint, "encoder"), text, _start(checkpoint, pad))
    blocks: list[Block] = [*encoder_blocks(checkpoint, read), bridge]
    bias = score_bias(checkpoint, "decoder", written)
    for layer in range(config.num_decoder_layers):
        blocks += layer_of(checkpoint, "decoder", layer, config.num_layers + layer, bias, read)
    norm = final_norm(checkpoint, "decoder")
    pool = Pool(PoolSpec("causal", 0, norm.spec, True))
    pool.norm = norm
    head = Head.assemble(HeadSpec(vocabulary), linear_over(_answering(checkpoint, words), torch.zeros(vocabulary)))
    checkpoint.refuse_leftovers(UNUSED)
    imported = Transformer.assemble(stem, blocks, pool, head).eval()
    inputs = random_texts(imported)
    calm_streams(imported, inputs)
    _verify(checkpoint, imported, inputs)
    return imported


def _start(checkpoint: Checkpoint, pad: int) -> int:
    """The word that every text begins with; config.json of an early checkpoint does not say."""
    start = checkpoint.config.to_dict().get("decoder_start_token_id")
    return pad if start is None else int(start)


def _answering(checkpoint: Checkpoint, words: torch.Tensor) -> torch.Tensor:
    """The head's weight `(words, d_model)`."""
    config, name = checkpoint.config, "lm_head.weight"
    tied = checkpoint.raw.get("tie_word_embeddings", True) is not False
    if not tied and not checkpoint.has(name):
        raise CoformerError(
            f"its head is not tied to the words, and '{name}' is missing",
            checkpoint.where,
            "copy the whole checkpoint, of a model for conditional generation",
        )
    if checkpoint.has(name):
        words = checkpoint.tensor(name, words.shape)
    scaled = config.model_type == "t5" and getattr(config, "scale_decoder_outputs", tied)
    return words * config.d_model**-0.5 if scaled else words


def random_texts(model: Transformer) -> torch.Tensor:
    """Two random texts with what is written to them, one pair as long as may be and one of half the length."""
    bridge = model.bridge
    assert bridge is not None and isinstance(model.stem.spec, TokenStemSpec)
    written = random_ids(bridge.stem.spec)
    return torch.cat([random_ids(model.stem.spec), torch.full_like(written[:, :1], bridge.start), written[:, :-1]], 1)


@torch.no_grad()
def _verify(checkpoint: Checkpoint, imported: Transformer, inputs: torch.Tensor) -> None:
    """Compare the answers with the library's.

    Raises:
        CheckFailed: if they differ by more than `TOLERANCE`; that is a bug of the importer.
    """
    from transformers import AutoModelForSeq2SeqLM
    from transformers.initialization import no_init_weights

    with no_init_weights():
        model = AutoModelForSeq2SeqLM.from_config(checkpoint.config)  # type: ignore[no-untyped-call]
    wanted, words = model.state_dict(), words_of(checkpoint, "encoder")
    tables = {"shared.weight": words, "encoder.embed_tokens.weight": words}
    tables["decoder.embed_tokens.weight"] = tables["lm_head.weight"] = words_of(checkpoint, "decoder")
    state = {
        name: checkpoint.tensor(f"{checkpoint.prefix}{name}", tensor.shape)
        if checkpoint.has(f"{checkpoint.prefix}{name}")
        else tables[name]
        for name, tensor in wanted.items()
    }
    model.load_state_dict(state, assign=True)
    read, mask = imported.stem.spec.tokens, imported.feature_mask(inputs)
    known = inputs.clamp(
        max=checkpoint.config.vocab_size - 1
    ).long()  # the padding of what is written is a word of ours
    found = model.eval()(
        input_ids=known[:, :read],
        attention_mask=imported.stem.mask(inputs).long(),  # type: ignore[union-attr]
        decoder_input_ids=known[:, read:],
    )
    want = found.logits[mask]
    error = float((imported(inputs)[mask] - want).abs().max() / want.abs().max().clamp(min=1))
    if not error <= TOLERANCE:
        raise CheckFailed(
            f"imported answers differ by {error:.2e}", checkpoint.where, "report this checkpoint as a bug"
        )
