"""Checkpoints from disk: every format, and every way for one to be broken."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from coformer_compiler.frontends import ModelSource, import_model
from coformer_compiler.frontends.weights import WRAPPERS, load_into, read_hub_folder, read_state_dict
from coformer_runtime.errors import CoformerError
from tests.compiler.frontends.timm_models import SMALL, save_weights, timm_logits, timm_model

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}
MEND = "give a safetensors file, or a .pth file that holds only tensors"


def is_what_was_saved(found: dict[str, torch.Tensor]) -> bool:
    return found.keys() == TENSORS.keys() and all(torch.equal(found[name], each) for name, each in TENSORS.items())


def test_safetensors(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "a.safetensors")
    assert is_what_was_saved(read_state_dict(tmp_path / "a.safetensors"))


@pytest.mark.parametrize("wrapper", [None, *WRAPPERS])
def test_torch_file(wrapper: str | None, tmp_path: Path) -> None:
    torch.save(TENSORS if wrapper is None else {wrapper: TENSORS, "epoch": 3}, tmp_path / "a.pth")
    assert is_what_was_saved(read_state_dict(tmp_path / "a.pth"))


def test_names_of_a_parallel_module(tmp_path: Path) -> None:
    torch.save({f"module.{name}": tensor for name, tensor in TENSORS.items()}, tmp_path / "a.pth")
    assert is_what_was_saved(read_state_dict(tmp_path / "a.pth"))


class Bomb:
    """Runs code when it is unpickled the plain way."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_malicious_pickle_is_refused_and_not_run(how: str, tmp_path: Path) -> None:
    path, trace = tmp_path / "evil.pth", tmp_path / "ran"
    content = {**TENSORS, "head.bias": Bomb(trace)}
    if how == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(CoformerError, match=r"unreadable or truncated \(Weights only load failed") as caught:
        read_state_dict(path)
    assert not trace.exists()
    assert (caught.value.where, caught.value.mend) == (f"checkpoint {path}", MEND)
    torch.load(path, weights_only=False) if how == "torch" else pickle.loads(path.read_bytes())  # noqa: S301
    assert trace.exists(), "the file is not malicious, so the test shows nothing"


@pytest.mark.parametrize("kept", [0, 5, 40, -1])
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_truncated_file(suffix: str, kept: int, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    save_file(TENSORS, path) if suffix == "safetensors" else torch.save(TENSORS, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CoformerError) as caught:
        read_state_dict(path)
    assert caught.value.what.startswith("unreadable or truncated (")
    assert "\n" not in str(caught.value)
    assert (caught.value.where, caught.value.mend) == (f"checkpoint {path}", MEND)


@pytest.mark.parametrize("content", [[1, 2], {"a": "text"}, {"model": {"a": 3}}, torch.ones(2)])
def test_a_file_without_a_state_dict(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CoformerError) as caught:
        read_state_dict(tmp_path / "a.pth")
    assert str(caught.value) == f"checkpoint {tmp_path / 'a.pth'}: holds no state dict; {MEND}"


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CoformerError) as caught:
        read_state_dict(tmp_path / "a.pth")
    assert str(caught.value) == f"checkpoint {tmp_path / 'a.pth'}: no such file; check model.checkpoint"


def test_loading_what_fits() -> None:
    model = nn.Sequential()
    model.a = nn.Linear(3, 2)
    load_into(model, TENSORS, "here")
    assert torch.equal(model.a.weight, TENSORS["a.weight"])


def test_loading_what_does_not_fit_names_the_first_differences() -> None:
    model = nn.Sequential()
    model.a, model.b = nn.Linear(3, 4), nn.Linear(1, 1)
    with pytest.raises(CoformerError) as caught:
        load_into(model, {**TENSORS, "c.weight": torch.zeros(5)}, "here")
    assert (caught.value.where, caught.value.mend) == (
        "here",
        "check model.name and model.options against the checkpoint",
    )
    assert caught.value.what == (
        "checkpoint of another architecture: 'a.weight' is [2, 3], the model wants [4, 3]; 'a.bias' is [2], the model "
        "wants [4]; 'b.weight' is absent, the model wants [1, 1] (and 2 more)"
    )


def test_loading_what_is_too_much() -> None:
    model = nn.Sequential()
    model.a = nn.Linear(3, 2)
    with pytest.raises(CoformerError, match=r"architecture: 'c' is \[5\], the model has none; check"):
        load_into(model, {**TENSORS, "c": torch.zeros(5)}, "here")


def test_a_checkpoint_of_another_architecture(tmp_path: Path) -> None:
    path = save_weights(timm_model("vit_tiny_patch16_224", **{**SMALL, "embed_dim": 12}), tmp_path / "a.safetensors")
    with pytest.raises(CoformerError) as caught:
        import_model(ModelSource("timm:vit_tiny_patch16_224", "file", path, tuple(SMALL.items())))
    assert caught.value.where == f"checkpoint {path}"
    assert caught.value.what.startswith(
        "checkpoint of another architecture: 'cls_token' is [1, 1, 12], the model wants [1, 1, 24]; 'pos_embed' is "
        "[1, 17, 12], the model wants [1, 17, 24]; 'patch_embed.proj.weight' is [12, 3, 8, 8], the model wants "
        "[24, 3, 8, 8] (and "
    )


def hub_folder(folder: Path, weights: str = "model.safetensors", **changes: object) -> nn.Module:
    """A folder as timm pushes one to the hub."""
    model = timm_model("vit_tiny_patch16_224", **SMALL)
    arguments = {key: value for key, value in SMALL.items() if key != "num_classes"}
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": SMALL["num_classes"],
        "num_features": SMALL["embed_dim"],
        "global_pool": "token",
        "model_args": arguments,
        "pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "input_size": [3, 32, 32]},
        **changes,
    }
    (folder / "config.json").write_text(json.dumps(config))
    if weights == "model.safetensors":
        save_weights(model, folder / weights)
    else:
        torch.save(model.state_dict(), folder / weights)
    return model


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_hub_folder(weights: str, tmp_path: Path) -> None:
    model = hub_folder(tmp_path, weights)
    imported = import_model(ModelSource("timm:vit_tiny_patch16_224", "file", tmp_path))
    pixels = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(4), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(imported(pixels), timm_logits(model, pixels), atol=1e-4, rtol=0)


def test_hub_folder_brings_its_normalisation(tmp_path: Path) -> None:
    hub_folder(tmp_path, pretrained_cfg={"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]})
    stem = import_model(ModelSource("timm:vit_tiny_patch16_224", "file", tmp_path)).stem
    assert stem.mean.tolist() == pytest.approx([25.5, 51, 76.5])
    assert stem.std.tolist() == pytest.approx([102, 127.5, 153])
    stem = import_model(ModelSource("timm:vit_tiny_patch16_224", "file", tmp_path, mean=(0.2,) * 3)).stem
    assert stem.mean.tolist() == pytest.approx([51] * 3)
    assert stem.std.tolist() == pytest.approx([102, 127.5, 153])


def test_hub_folder_of_another_architecture(tmp_path: Path) -> None:
    hub_folder(tmp_path, architecture="deit_small_patch16_224")
    with pytest.raises(CoformerError) as caught:
        import_model(ModelSource("timm:vit_tiny_patch16_224", "file", tmp_path))
    assert str(caught.value) == (
        "model 'timm:vit_tiny_patch16_224': the folder holds a 'deit_small_patch16_224'; write model.name = "
        "'timm:deit_small_patch16_224'"
    )


def test_hub_folder_without_a_config(tmp_path: Path) -> None:
    with pytest.raises(CoformerError, match=r"no readable config\.json \(.*No such file.*\); give a hub folder$"):
        read_hub_folder(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CoformerError, match=r"no readable config\.json \(Expecting .*\); give a hub folder$"):
        read_hub_folder(tmp_path)


@pytest.mark.parametrize("text", ["[]", "3", '"text"'])
def test_hub_folder_whose_config_is_no_object(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    save_file(TENSORS, tmp_path / "model.safetensors")
    with pytest.raises(CoformerError, match=r"no readable config\.json"):
        read_hub_folder(tmp_path)


def test_hub_folder_without_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CoformerError) as caught:
        read_hub_folder(tmp_path)
    assert str(caught.value) == (
        f"checkpoint {tmp_path}: no weight file; put one of model.safetensors, pytorch_model.bin there"
    )
