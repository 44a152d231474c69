"""Canonical models on disk: one safetensors file, its spec in the header."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from coformer_compiler.model.mapped import MappedTensors, write_tensors
from coformer_compiler.model.spec_json import spec_from_json
from coformer_compiler.model.transformer import Transformer
from coformer_runtime.errors import CoformerError

FORMAT = "coformer-transformer/1"


def save_transformer(path: Path, model: Transformer) -> None:
    """Write weights and spec; equal models give equal bytes."""
    spec = json.dumps(model.spec.to_json(), sort_keys=True)
    header = {"coformer": json.dumps({"format": FORMAT, "spec": spec}, sort_keys=True)}
    write_tensors(path, dict(sorted(model.state_dict().items())), header)


def load_transformer(path: Path) -> Transformer:
    """The model that `save_transformer` wrote, in evaluation mode, its weights mapped: see `Transformer.release`.

    Raises:
        CoformerError: if the file is not such a model.
    """
    from safetensors import SafetensorError

    try:
        mapped = MappedTensors(path)
        header = json.loads(mapped.metadata["coformer"])
        if header["format"] != FORMAT:
            raise KeyError(header["format"])
        with torch.device("meta"):
            model = Transformer(spec_from_json(json.loads(header["spec"])))
        model.load_state_dict(dict(mapped), assign=True)
        model.mapped = mapped
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CoformerError(f"not a model of this toolchain ({error})", str(path), "build it again") from error
    return model.eval()
