"""Hugging Face folders: config.json, weights and tokenizer, by model type. No code of a folder is ever run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from coformer_compiler.frontends import ModelSource
from coformer_compiler.frontends.hf_checkpoint import Checkpoint, random_tensors
from coformer_compiler.frontends.hf_encoder import ENCODERS, transformer_from_encoder
from coformer_compiler.frontends.hf_gpt2 import transformer_from_gpt2
from coformer_compiler.frontends.hf_t5 import transformer_from_t5
from coformer_compiler.frontends.tensor_files import TensorFolder
from coformer_compiler.frontends.weights import read_folder_config
from coformer_compiler.model.transformer import Transformer
from coformer_compiler.torchvision_operators import ensure_torchvision_operators
from coformer_runtime.errors import CoformerError
from coformer_targets.nearest import suggestion

MODEL_TYPES: dict[str, Callable[[Checkpoint], Transformer]] = {
    **dict.fromkeys(ENCODERS, transformer_from_encoder),
    "gpt2": transformer_from_gpt2,
    "t5": transformer_from_t5,
    "mt5": transformer_from_t5,
}
"""`model_type` of config.json, and what imports it."""


def transformer_from_hf(source: ModelSource) -> Transformer:
    """Import `hf:FOLDER`; see `coformer_compiler.frontends.import_model`.

    Raises:
        CoformerError: no folder, no config, an architecture that is not supported, one that needs code, tensors that
            are missing or left over, an option that nothing reads.
    """
    checkpoint = read_checkpoint(source)
    return MODEL_TYPES[checkpoint.config.model_type](checkpoint)


def read_checkpoint(source: ModelSource) -> Checkpoint:
    """Config and tensors of the source's folder; tensors are random where the source says so."""
    folder = source.checkpoint
    assert folder is not None, "the configuration gives every hf model its folder"
    if source.weights == "hub":
        raise CoformerError(
            "nothing is downloaded for hf models",
            f"model '{source.name}'",
            "download the folder and name it: hf:FOLDER",
        )
    raw = read_folder_config(folder)
    where = f"checkpoint {folder}"
    kind = raw.get("model_type")
    if "auto_map" in raw:
        raise CoformerError("its architecture is code of its own (auto_map)", where, "use a model without custom code")
    if kind not in MODEL_TYPES:
        raise CoformerError(
            f"model_type '{kind}' is not supported", where, suggestion(str(kind), tuple(MODEL_TYPES), noun="model type")
        )
    config = _config(str(kind), raw, where)
    tensors: Mapping[str, Any]
    if source.weights == "random":
        tensors = random_tensors(config, source.seed)
    else:
        tensors = TensorFolder(folder)
    return Checkpoint(folder, config, raw, tensors, dict(source.options), source.name)


def _config(kind: str, raw: Mapping[str, Any], where: str) -> Any:
    """The library's own config object, which knows defaults and other names of keys."""
    ensure_torchvision_operators()
    try:
        from transformers import AutoConfig
    except ImportError as error:
        raise CoformerError(
            f"transformers cannot be imported ({error})", where, "install it: pip install 'coformer-compiler[text]'"
        ) from error
    given = {key: value for key, value in raw.items() if key not in ("model_type", "transformers_version")}
    try:
        return AutoConfig.for_model(kind, **given)
    except Exception as error:  # the library's checks raise kinds of their own
        raise CoformerError(f"transformers refuses config.json ({error})", where, "correct config.json") from error
