"""State dicts from files, without running code from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from coformer_compiler.model.mapped import MappedTensors
from coformer_runtime.errors import CoformerError

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
WRAPPERS = ("state_dict", "model", "model_state", "model_ema", "state_dict_ema")


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a `.safetensors` file or of a torch file (read with weights_only, so that no code runs).

    Raises:
        CoformerError: if the file is missing, truncated, of another format, or holds anything but tensors.
    """
    mend = "give a safetensors file, or a .pth file that holds only tensors"
    if not path.is_file():
        raise CoformerError("no such file", f"checkpoint {path}", "check model.checkpoint")
    try:
        if path.suffix == ".safetensors":
            return dict(MappedTensors(path))
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each library raises kinds of its own for broken files
        raise CoformerError(f"unreadable or truncated ({first_line(error)})", f"checkpoint {path}", mend) from error
    for key in WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise CoformerError("holds no state dict", f"checkpoint {path}", mend)
    return {str(name).removeprefix("module."): tensor for name, tensor in loaded.items()}


def read_folder_config(folder: Path) -> dict[str, Any]:
    """config.json of a folder in the Hugging Face hub's format.

    Raises:
        CoformerError: missing, or no JSON object.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError) as error:
        raise CoformerError(
            f"no readable config.json ({error})", f"checkpoint {folder}", "give a hub folder"
        ) from error
    return config


def read_hub_folder(folder: Path) -> tuple[dict[str, Any], Path]:
    """(config.json, weight file) of a folder in the Hugging Face hub's format.

    Raises:
        CoformerError: if either is missing or the config is no JSON object.
    """
    config = read_folder_config(folder)
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return config, folder / name
    raise CoformerError("no weight file", f"checkpoint {folder}", f"put one of {', '.join(WEIGHT_FILES)} there")


def load_into(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor], where: str) -> None:
    """Let `tensors` be the weights of `model`, all of them and nothing else; they are not copied.

    Raises:
        CoformerError: naming the first tensors that are missing, unexpected or of another shape.
    """
    expected = model.state_dict()
    differences = [
        f"'{name}' is {_shape(tensors.get(name))}, the model "
        + (f"wants {_shape(expected[name])}" if name in expected else "has none")
        for name in [*expected, *(name for name in tensors if name not in expected)]
        if _shape(tensors.get(name)) != _shape(expected.get(name))
    ]
    if differences:
        more = f" (and {len(differences) - 3} more)" if len(differences) > 3 else ""
        raise CoformerError(
            "checkpoint of another architecture: " + "; ".join(differences[:3]) + more,
            where,
            "check model.name and model.options against the checkpoint",
        )
    fitting = {name: tensor.to(expected[name].dtype) for name, tensor in tensors.items()}
    model.load_state_dict(fitting, assign=True)


def _shape(tensor: torch.Tensor | None) -> str:
    return "absent" if tensor is None else str(list(tensor.shape))


def first_line(error: Exception) -> str:
    """What another library says of a failure, shortened."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
