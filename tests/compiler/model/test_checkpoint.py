"""Canonical models on disk."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from coformer_compiler.model.checkpoint import FORMAT, load_transformer, save_transformer
from coformer_runtime.errors import CoformerError
from tests.compiler.tiny import VARIANTS, random_inputs, random_model, tiny_spec


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_transformer(path, random_model(tiny_spec()))
    return path


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_round_trip(name: str, tmp_path: Path) -> None:
    model, path = random_model(VARIANTS[name]), tmp_path / "model.safetensors"
    save_transformer(path, model)
    loaded = load_transformer(path)
    assert loaded.spec == model.spec
    assert not loaded.training
    pixels = random_inputs(model.spec, 2)
    assert torch.equal(loaded(pixels), model(pixels))
    assert all(torch.equal(loaded.state_dict()[key], tensor) for key, tensor in model.state_dict().items())


def test_equal_models_give_equal_bytes(tmp_path: Path) -> None:
    model = random_model(tiny_spec())
    save_transformer(tmp_path / "a", model)
    save_transformer(tmp_path / "b", random_model(tiny_spec()))
    save_transformer(tmp_path / "c", load_transformer(tmp_path / "a"))
    save_transformer(tmp_path / "d", random_model(tiny_spec(), seed=1))
    a, b, c, d = ((tmp_path / name).read_bytes() for name in "abcd")
    assert a == b == c
    assert a != d


def fails_to_load(path: Path, reason: str) -> bool:
    wanted = rf"^{re.escape(str(path))}: not a model of this toolchain \(.*{reason}.*\); build it again$"
    with pytest.raises(CoformerError) as caught:
        load_transformer(path)
    told = re.search(wanted, str(caught.value), re.DOTALL | re.IGNORECASE)
    return told is not None and caught.value.exit_code == 2


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_truncated_file(saved: Path, kept: int) -> None:
    saved.write_bytes(saved.read_bytes()[:kept])
    assert fails_to_load(saved, "header|incomplete|metadata")


def test_a_missing_file(tmp_path: Path) -> None:
    assert fails_to_load(tmp_path / "none.safetensors", "no such file")


def test_a_file_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    assert fails_to_load(path, "'coformer'")


def test_a_file_of_another_version(saved: Path) -> None:
    tensors = load_file(saved)
    save_file(tensors, saved, {"coformer": json.dumps({"format": "coformer-transformer/9", "spec": "{}"})})
    assert fails_to_load(saved, "coformer-transformer/9")


def test_a_missing_tensor(saved: Path) -> None:
    tensors = load_file(saved)
    del tensors["head.linear.bias"]
    header = {"format": FORMAT, "spec": json.dumps(tiny_spec().to_json())}
    save_file(tensors, saved, {"coformer": json.dumps(header)})
    assert fails_to_load(saved, "head.linear.bias")
