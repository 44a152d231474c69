"""BERT and its kind (MiniLM, RoBERTa, DistilBERT, ELECTRA): post-norm encoders of texts.

Their norm after a sum is the norm in front of the next sub-block here: the embedding's norm belongs to the first
attention, the last layer's to the pool. Folded at import: position numbers (and the type that all tokens of a single
text have) into one table per place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from coformer_compiler.frontends.hf_checkpoint import WITH_DECODER, Checkpoint
from coformer_compiler.frontends.hf_sentence import embedding_head
from coformer_compiler.model.attention import Attention
from coformer_compiler.model.head import Head
from coformer_compiler.model.linear import linear_over
from coformer_compiler.model.mlp import Mlp
from coformer_compiler.model.norm import Norm
from coformer_compiler.model.pool import Pool
from coformer_compiler.model.residual import Residual
from coformer_compiler.model.spec import (
    Activation,
    AttentionSpec,
    HeadSpec,
    MlpSpec,
    PoolSpec,
    TokenStemSpec,
)
from coformer_compiler.model.token_stem import TokenStem
from coformer_compiler.model.transformer import Transformer
from coformer_runtime.errors import CheckFailed, CoformerError

TOLERANCE = 1e-4  # largest difference of the last hidden states between original and import, relative to the largest
LENGTH = 128
"""Tokens of a sequence where the options say nothing."""
OPTIONS = ("length", "pairs", "pool", "normalise")


@dataclass(frozen=True)
class Family:
    """What one model type calls its parts.

    Attributes:
        layers: the list of layers.
        query, key, value, written, attention_norm, read_mlp, written_mlp, mlp_norm: within a layer.
        pooler: linear behind the first token in front of the last linear, or none.
        classifier: the last linear.
        activation: between the two.
        neurons, activation_key: keys of config.json.
        shift: number of the first position, beyond the padding's.
    """

    layers: str = "encoder.layer"
    query: str = "attention.self.query"
    key: str = "attention.self.key"
    value: str = "attention.self.value"
    written: str = "attention.output.dense"
    attention_norm: str = "attention.output.LayerNorm"
    read_mlp: str = "intermediate.dense"
    written_mlp: str = "output.dense"
    mlp_norm: str = "output.LayerNorm"
    pooler: str = "classifier.dense"
    classifier: str = "classifier.out_proj"
    activation: Activation = "tanh"
    neurons: str = "intermediate_size"
    activation_key: str = "hidden_act"
    shift: bool = False


ENCODERS: dict[str, Family] = {
    "bert": Family(pooler="bert.pooler.dense", classifier="classifier"),
    "roberta": Family(shift=True),
    "electra": Family(activation="gelu"),
    "distilbert": Family(
        "transformer.layer",
        "attention.q_lin",
        "attention.k_lin",
        "attention.v_lin",
        "attention.out_lin",
        "sa_layer_norm",
        "ffn.lin1",
        "ffn.lin2",
        "output_layer_norm",
        "pre_classifier",
        "classifier",
        "relu",
        "hidden_dim",
        "activation",
    ),
}
"""Families by `model_type`."""

PRETRAINING = (
    "cls.",
    "lm_head.",
    "discriminator_predictions.",
    "generator_predictions.",
    "generator_lm_head.",
    "vocab_transform.",
    "vocab_layer_norm.",
    "vocab_projector.",
    "pooler.dense.weight",
    "pooler.dense.bias",
    "position_ids",
    "token_type_ids",
)
"""Tensors that a checkpoint may hold for other uses than ours."""


@torch.no_grad()
def transformer_from_encoder(checkpoint: Checkpoint) -> Transformer:
    """The canonical form of an encoder, proved equal to the library's on random tokens.

    Raises:
        CoformerError: tensors or options that do not fit; an encoder with parts that have no canonical form.
    """
    checkpoint.refuse_unknown_options(OPTIONS)
    family, config = ENCODERS[checkpoint.config.model_type], checkpoint.config
    _refuse_foreign_parts(checkpoint)
    base = f"{config.model_type}."
    checkpoint.prefix = base if checkpoint.has(f"{base}embeddings.word_embeddings.weight") else ""
    stem, norm = _stem(checkpoint, family)
    blocks: list[Residual] = []
    for layer in range(config.num_hidden_layers):
        attention, mlp, after = _layer(checkpoint, family, layer)
        blocks.append(Residual.assemble(layer, norm, attention, post_norm=True))
        blocks.append(Residual.assemble(layer, after, mlp, post_norm=True))
        norm = checkpoint.norm(_name(checkpoint, family, layer, family.mlp_norm), config.hidden_size, _eps(config))
    assert norm is not None
    pool, head = _pool_and_head(checkpoint, family, norm)
    checkpoint.refuse_leftovers(PRETRAINING)
    imported = Transformer.assemble(stem, blocks, pool, head).eval()
    verify_encoder(checkpoint, imported)
    return imported


def _refuse_foreign_parts(checkpoint: Checkpoint) -> None:
    config = checkpoint.config
    kind = getattr(config, "position_embedding_type", "absolute") or "absolute"
    if kind != "absolute":
        raise CoformerError(
            f"its positions are '{kind}'", checkpoint.where, "use a model with absolute position embeddings"
        )
    if getattr(config, "is_decoder", False):
        raise CoformerError("it is a decoder", checkpoint.where, "set is_decoder to false, or use an encoder")
    if config.hidden_size % config.num_attention_heads:
        raise CoformerError(
            f"{config.hidden_size} channels are no multiple of {config.num_attention_heads} heads",
            checkpoint.where,
            "correct config.json",
        )


def _stem(checkpoint: Checkpoint, family: Family) -> tuple[TokenStem, Norm | None]:
    """The stem, and the norm behind it where no projection follows: that one is the first sub-block's."""
    config, prefix = checkpoint.config, checkpoint.prefix
    embed = getattr(config, "embedding_size", config.hidden_size)
    pad, types = config.pad_token_id or 0, getattr(config, "type_vocab_size", 0) or 0
    first = pad + 1 if family.shift else 0
    longest = config.max_position_embeddings - first
    length, pairs = checkpoint.option("length", min(LENGTH, longest)), checkpoint.option("pairs", False)
    if not 2 <= length <= longest:
        raise CoformerError(
            f"length = {length}, and the model has positions for 2 to {longest} tokens",
            "model.options.length",
            "give a length between these",
        )
    table = f"{prefix}embeddings.position_embeddings.weight"
    positions = checkpoint.tensor(table, (config.max_position_embeddings, embed))[first : first + length]
    rows = 2 if pairs and types > 1 else 1
    norm = checkpoint.norm(f"{prefix}embeddings.LayerNorm", embed, _eps(config))
    projected = embed != config.hidden_size
    mix = config.hidden_size if projected else None
    with torch.device("meta"):
        stem = TokenStem(
            TokenStemSpec(length, config.vocab_size, pad, embed, rows, norm.spec if projected else None, mix)
        )
    words = checkpoint.tensor(f"{prefix}embeddings.word_embeddings.weight", (config.vocab_size, embed))
    stem.words = nn.Parameter(words, requires_grad=False)  # mapped, as the linears are
    if types:
        kinds = checkpoint.tensor(f"{prefix}embeddings.token_type_embeddings.weight", (types, embed))
        if rows == 1:
            positions = positions + kinds[0]
        else:
            stem.types = nn.Parameter(kinds[:2].clone())
    stem.positions = nn.Parameter(positions.clone())
    if not projected:
        return stem, norm
    stem.norm, stem.mix = norm, checkpoint.linear(f"{prefix}embeddings_project", embed, config.hidden_size)
    return stem, None


def _layer(checkpoint: Checkpoint, family: Family, layer: int) -> tuple[Attention, Mlp, Norm]:
    """Attention, MLP, and the norm between them."""
    config, width = checkpoint.config, checkpoint.config.hidden_size
    heads, neurons = config.num_attention_heads, getattr(config, family.neurons)

    def linear(part: str, inputs: int, outputs: int) -> nn.Linear:
        return checkpoint.linear(_name(checkpoint, family, layer, part), inputs, outputs)

    parts = [linear(part, width, width) for part in (family.query, family.key, family.value)]
    activation = checkpoint.activation(getattr(config, family.activation_key))
    with torch.device("meta"):
        attention = Attention(AttentionSpec(width, heads, width // heads, width))
        mlp = Mlp(MlpSpec(width, neurons, width, activation))
    attention.reader = linear_over(torch.cat([p.weight for p in parts]), torch.cat([p.bias for p in parts]))
    attention.writer = linear(family.written, width, width)
    mlp.reader, mlp.writer = linear(family.read_mlp, width, neurons), linear(family.written_mlp, neurons, width)
    norm = checkpoint.norm(_name(checkpoint, family, layer, family.attention_norm), width, _eps(config))
    return attention, mlp, norm


def _name(checkpoint: Checkpoint, family: Family, layer: int, part: str) -> str:
    return f"{checkpoint.prefix}{family.layers}.{layer}.{part}"


def _eps(config: Any) -> float:
    return float(getattr(config, "layer_norm_eps", 1e-12))


def _pool_and_head(checkpoint: Checkpoint, family: Family, norm: Norm) -> tuple[Pool, Head]:
    """The answer of the checkpoint: a classifier where there is one, else the pooled stream itself (an embedding)."""
    pooling = checkpoint.sentence_transformers("1_Pooling/config.json")
    known = "mean" if pooling.get("pooling_mode_mean_tokens") else "cls"
    kind = checkpoint.option("pool", known)
    if kind not in ("cls", "mean"):
        raise CoformerError(f"pool = '{kind}'", "model.options.pool", "give 'cls' or 'mean'")
    pool = Pool(PoolSpec("prefix", 1, norm.spec, True) if kind == "cls" else PoolSpec("mean", 0, norm.spec, True))
    pool.norm = norm
    return pool, _classifier(checkpoint, family, kind) or embedding_head(checkpoint)


def _classifier(checkpoint: Checkpoint, family: Family, pool: str) -> Head | None:
    """A classifier reads the first token behind a pooler, as the library has it; behind a mean it stands alone."""
    width, plain = checkpoint.config.hidden_size, "classifier"
    name = plain if pool == "mean" else family.classifier
    if not checkpoint.has(f"{name}.weight"):
        return None
    classes = len(checkpoint.tensors[f"{name}.weight"])
    linear = checkpoint.linear(name, width, classes)
    if pool == "mean":
        return Head.assemble(HeadSpec(classes), linear)
    spec = HeadSpec(classes, width, family.activation)
    return Head.assemble(spec, linear, checkpoint.linear(family.pooler, width, width))


def verify_encoder(checkpoint: Checkpoint, imported: Transformer) -> None:
    """Compare the last hidden states with the library's on seeded random tokens, one of two texts padded.

    Raises:
        CheckFailed: if they differ by more than `TOLERANCE`; that is a bug of the importer.
    """
    stem = imported.stem
    assert isinstance(stem, TokenStem)
    ids = random_ids(stem.spec)
    words, types = (ids, torch.zeros_like(ids)) if stem.types is None else (ids[:, 0], ids[:, 1])
    mask = stem.mask(ids)
    known = words.clamp(max=checkpoint.config.vocab_size - 1)  # a causal model's padding is a word of ours
    given = {"input_ids": known.long(), "attention_mask": mask.long()}
    if getattr(checkpoint.config, "type_vocab_size", 0):
        given["token_type_ids"] = types.long()
    want = library_model(checkpoint)(**given).last_hidden_state
    x = stem(ids)
    for block in imported.residuals:
        x = block(x, mask)
    assert imported.pool.norm is not None
    error = float((imported.pool.norm(x) - want)[mask].abs().max() / want[mask].abs().max().clamp(min=1))
    if not error <= TOLERANCE:
        raise CheckFailed(
            f"imported hidden states differ by {error:.2e}", checkpoint.where, "report this checkpoint as a bug"
        )


def random_ids(spec: TokenStemSpec) -> torch.Tensor:
    """Two texts of random words, one as long as may be and one of half the length, `(2, *spec.input.shape)` int32."""
    random = torch.Generator().manual_seed(0)
    words = torch.randint(0, spec.vocabulary, (2, spec.length), generator=random, dtype=torch.int32)
    words = torch.where(words == spec.pad, (spec.pad + 1) % spec.vocabulary, words)
    words[1, (spec.length + 1) // 2 :] = spec.pad
    if spec.types == 1:
        return words
    types = torch.randint(0, spec.types, words.shape, generator=random, dtype=torch.int32)
    return torch.stack([words, types], 1)


def library_model(checkpoint: Checkpoint) -> Any:
    """The library's own encoder with the checkpoint's tensors, in evaluation mode."""
    from transformers import AutoModel, AutoModelForTextEncoding
    from transformers.initialization import no_init_weights

    kind = AutoModelForTextEncoding if checkpoint.config.model_type in WITH_DECODER else AutoModel
    with no_init_weights():
        model = kind.from_config(checkpoint.config)  # type: ignore[no-untyped-call]
    names = [name for name in model.state_dict() if checkpoint.has(f"{checkpoint.prefix}{name}")]
    state = {name: checkpoint.tensor(f"{checkpoint.prefix}{name}", model.state_dict()[name].shape) for name in names}
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    return model.eval()
