"""What sentence-transformers puts behind an encoder: pooling, one linear, normalising."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from coformer_compiler.frontends import import_model
from coformer_compiler.frontends.hf_encoder import random_ids
from coformer_runtime.errors import CoformerError
from tests.compiler.frontends.hf_models import hf_model, save_hf, source_of

LINEAR = {"in_features": 24, "out_features": 7, "bias": True, "activation_function": "torch.nn.modules.linear.Identity"}
KIND = "sentence_transformers.models."


def folder_with(folder: Path, modules: list[str], dense: dict[str, Any] | None = None, width: int = 24) -> torch.Tensor:
    """A BERT as sentence-transformers saves it; returns weight and bias of its linear, side by side."""
    save_hf(hf_model("bert").bert, folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    listed = [{"idx": n, "path": f"{n}_{name}", "type": KIND + name} for n, name in enumerate(modules)]
    (folder / "modules.json").write_text(json.dumps(listed))
    linear = torch.randn(7, width + 1, generator=torch.Generator().manual_seed(2))
    for each in listed:
        if each["type"] == f"{KIND}Dense":
            inner = folder / str(each["path"])
            inner.mkdir()
            (inner / "config.json").write_text(json.dumps({**LINEAR, **(dense or {})}))
            weights = {"linear.weight": linear[:, :-1].contiguous(), "linear.bias": linear[:, -1].contiguous()}
            save_file(weights, inner / "model.safetensors")
    return linear


@pytest.mark.parametrize("activation", ["torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Tanh"])
@pytest.mark.parametrize("normalised", [False, True])
@torch.no_grad()
def test_the_linear_is_the_head(activation: str, normalised: bool, tmp_path: Path) -> None:
    modules = ["Transformer", "Pooling", "Dense", *(["Normalize"] if normalised else [])]
    linear = folder_with(tmp_path / "m", modules, {"activation_function": activation})
    made = import_model(source_of(tmp_path / "m"))
    ids = random_ids(made.stem.spec)  # type: ignore[arg-type]
    want = made.features(ids) @ linear[:, :-1].T + linear[:, -1]
    want = want.tanh() if activation.endswith("Tanh") else want
    want = torch.nn.functional.normalize(want, dim=-1) if normalised else want
    torch.testing.assert_close(made(ids), want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("modules", "dense", "width", "said"),
    [
        (["Transformer", "Pooling", "CNN"], None, 24, "its module 'CNN' has no canonical form"),
        (["Transformer", "Dense", "Dense"], None, 24, "it has 2 linears behind the pooling"),
        (["Transformer", "Dense"], {"activation_function": "torch.nn.ReLU"}, 24, "its activation is 'relu'"),
        (["Transformer", "Dense"], None, 20, "its linear reads 20 features, the encoder has 24"),
    ],
)
def test_modules_that_do_not_fit(
    modules: list[str], dense: dict[str, Any] | None, width: int, said: str, tmp_path: Path
) -> None:
    folder_with(tmp_path / "m", modules, dense, width)
    with pytest.raises(CoformerError, match=said):
        import_model(source_of(tmp_path / "m"))
