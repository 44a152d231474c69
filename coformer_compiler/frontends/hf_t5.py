"""T5, T5 v1.1, Flan-T5 and mT5: pre-norm, RMSNorm, relative positions, no bias anywhere; whole, or the encoder alone.

The encoder alone tells classes, or is pooled to an embedding. The whole model answers a text with a text: see
`hf_t5_decoder.py`.
"""

from __future__ import annotations

import torch

from coformer_compiler.frontends.hf_checkpoint import Checkpoint
from coformer_compiler.frontends.hf_encoder import LENGTH, random_ids, verify_encoder
from coformer_compiler.frontends.hf_sentence import embedding_head
from coformer_compiler.frontends.hf_t5_decoder import transformer_from_whole_t5
from coformer_compiler.frontends.hf_t5_parts import (
    TABLE,
    calm_streams,
    encoder_blocks,
    final_norm,
    length_of,
    stem_over,
    words_of,
)
from coformer_compiler.model.head import Head
from coformer_compiler.model.pool import Pool
from coformer_compiler.model.spec import HeadSpec, PoolSpec, TokenStemSpec
from coformer_compiler.model.transformer import Transformer
from coformer_runtime.errors import CoformerError

OPTIONS = ("length", "normalise", "part")
BEHIND_DECODER = ("lm_head.", "classification_head.", "qa_outputs.")
ENCODER_ONLY = ("EncoderModel", "ForTokenClassification")
"""How the library's classes without a decoder end."""
WRITES = "ForConditionalGeneration"
"""How the one ends whose decoder is imported too."""


@torch.no_grad()
def transformer_from_t5(checkpoint: Checkpoint) -> Transformer:
    """The canonical form, proved equal to the library's.

    Raises:
        CoformerError: tensors or options that do not fit; a decoder for something else than text.
    """
    encoder_table = TABLE.format("encoder")
    checkpoint.prefix = "transformer." if checkpoint.has(f"transformer.{encoder_table}") else ""
    return transformer_from_whole_t5(checkpoint) if _is_whole(checkpoint) else _encoder_from_t5(checkpoint)


def _encoder_from_t5(checkpoint: Checkpoint) -> Transformer:
    """The encoder and the mean of its last hidden states."""
    checkpoint.refuse_unknown_options(OPTIONS)
    config, length = checkpoint.config, length_of(checkpoint, "length", LENGTH)
    spec = TokenStemSpec(length, config.vocab_size, config.pad_token_id or 0, config.d_model, positions=False)
    stem = stem_over(spec, words_of(checkpoint, "encoder"))
    blocks, norm = encoder_blocks(checkpoint, length), final_norm(checkpoint, "encoder")
    pool = Pool(PoolSpec("mean", 0, norm.spec, True))
    pool.norm = norm
    head = _classifier(checkpoint) or embedding_head(checkpoint)
    checkpoint.refuse_leftovers((f"{checkpoint.prefix}decoder.", *BEHIND_DECODER))
    imported = Transformer.assemble(stem, blocks, pool, head).eval()
    calm_streams(imported, random_ids(spec))
    verify_encoder(checkpoint, imported)
    return imported


def _is_whole(checkpoint: Checkpoint) -> bool:
    """Whether there is a decoder that the options do not leave out.

    Raises:
        CoformerError: a decoder that does not write texts, or another `part` than there is.
    """
    part = checkpoint.option("part", "whole")
    if part not in ("whole", "encoder"):
        raise CoformerError(f"part = '{part}'", "model.options.part", "give 'encoder', or leave it away")
    named = [name for name in checkpoint.raw.get("architectures") or () if not name.endswith(ENCODER_ONLY)]
    decodes = any(name.startswith(f"{checkpoint.prefix}decoder.") for name in checkpoint.tensors)
    if part == "encoder" or not (named or decodes):
        return False
    foreign = [name for name in named if not name.endswith(WRITES)]
    if foreign:
        raise CoformerError(
            f"a {checkpoint.config.model_type} that writes no text is not supported ({', '.join(foreign)})",
            checkpoint.where,
            f"use a {checkpoint.config.model_type} {WRITES}, or its encoder, for classification and embeddings: set "
            "model.options.part = 'encoder'",
        )
    return True


def _classifier(checkpoint: Checkpoint) -> Head | None:
    """One linear behind the mean, as the library's for tokens; the library's for sequences reads the decoder."""
    if not checkpoint.has("classifier.weight"):
        return None
    classes = len(checkpoint.tensors["classifier.weight"])
    return Head.assemble(HeadSpec(classes), checkpoint.linear("classifier", checkpoint.config.d_model, classes))
