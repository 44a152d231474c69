"""Canonical models on disk: one safetensors file, its spec in the header."""

from __future__ import annotations

import json
from pathlib import Path

from coformer_compiler.model.spec import spec_from_json
from coformer_compiler.model.transformer import Transformer
from coformer_runtime.errors import CoformerError

FORMAT = "coformer-transformer/1"


def save_transformer(path: Path, model: Transformer) -> None:
    """Write weights and spec; equal models give equal bytes."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(model.state_dict().items())}
    spec = json.dumps(model.spec.to_json(), sort_keys=True)
    # One metadata entry: safetensors writes several in no fixed order, and the digest must not depend on it.
    save_file(tensors, path, {"coformer": json.dumps({"format": FORMAT, "spec": spec}, sort_keys=True)})


def load_transformer(path: Path) -> Transformer:
    """The model that `save_transformer` wrote, in evaluation mode.

    Raises:
        CoformerError: if the file is not such a model.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["coformer"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iterator)
        if header["format"] != FORMAT:
            raise KeyError(header["format"])
        model = Transformer(spec_from_json(json.loads(header["spec"])))
        model.load_state_dict(tensors)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CoformerError(f"not a model of this toolchain ({error})", str(path), "build it again") from error
    return model.eval()
