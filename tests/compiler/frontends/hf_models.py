"""Models of transformers' own making, small, on disk as its folders are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from coformer_compiler.frontends import ModelSource
from coformer_compiler.frontends.hf_checkpoint import DECODERS, WITH_DECODER
from coformer_compiler.torchvision_operators import ensure_torchvision_operators

SMALL: dict[str, dict[str, Any]] = {
    "bert": {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40},
    "roberta": {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
    | {"pad_token_id": 1, "type_vocab_size": 1},
    "electra": {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
    | {"embedding_size": 16},
    "distilbert": {"dim": 24, "n_layers": 2, "n_heads": 3, "hidden_dim": 40},
    "gpt2": {"n_embd": 24, "n_layer": 2, "n_head": 3, "n_inner": 40},
    "t5": {"d_model": 24, "num_layers": 2, "num_heads": 3, "d_kv": 6, "d_ff": 40},
    "mt5": {"d_model": 24, "num_layers": 2, "num_heads": 3, "d_kv": 6, "d_ff": 40},
}
"""Options of a small model of each type; vocabulary of 50 words, 40 places, 5 labels besides."""


def hf_model(kind: str, **options: Any) -> Any:
    """A model for sequence classification with random weights of which none is near zero.

    Of an encoder and decoder it is the one for tokens, whose classifier stands on the encoder; of a decoder the one
    that continues texts.
    """
    ensure_torchvision_operators()
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoModelForTokenClassification,
    )

    shape = {"vocab_size": 50, "max_position_embeddings": 40, "num_labels": 5}
    torch.manual_seed(3)
    config = AutoConfig.for_model(kind, **{**shape, **SMALL.get(kind, {}), **options})
    made = AutoModelForTokenClassification if kind in WITH_DECODER else AutoModelForSequenceClassification
    made = AutoModelForCausalLM if kind in DECODERS else made
    model = made.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(
                    std=parameter.shape[-1] ** -0.5 if "embeddings." not in name and "shared." not in name else 1.0
                )
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def save_hf(model: Any, folder: Path, **changes: Any) -> ModelSource:
    """Write the model as a folder, with changes to config.json, and name it as a source."""
    model.save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return source_of(folder)


def source_of(folder: Path, **options: Any) -> ModelSource:
    """A source with options of `[model.options]`."""
    return ModelSource(f"hf:{folder.name}", "file", folder, tuple(sorted(options.items())))
