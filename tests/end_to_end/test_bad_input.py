"""Mistakes that show only once a build runs: what is said, the exit code, and that nothing is half-written."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.end_to_end.tiny import TINY, coformerc, teacher_tensors

PUBLISHED = {"bundles", "build.json", "policy.json", "report.json", "report.html"}


@pytest.fixture
def refused(tiny: Path, tmp_path: Path):
    """Builds tiny.toml with a change, and returns what is said."""

    def build(*words: object, change: tuple[str, str] = ("", "")) -> str:
        shutil.copy(tiny / "teacher.safetensors", tmp_path)
        assert change[0] in TINY
        (tmp_path / "tiny.toml").write_text(TINY.replace(*change, 1) if change[0] else TINY)
        out = tmp_path / "out"
        outcome = coformerc("build", tmp_path / "tiny.toml", "-o", out, *words)
        assert outcome.code == 2, outcome.err
        assert outcome.out == ""
        if out.exists():
            assert not PUBLISHED & {path.name for path in out.iterdir()}
            assert {path.suffix for path in (out / "cache").glob("*/*")} <= {"", ".work"}
        return outcome.err.splitlines()[-1]

    return build


def test_a_checkpoint_that_is_not_there(refused, tmp_path: Path) -> None:
    path = tmp_path / "none.safetensors"
    assert refused("--checkpoint", path) == f"error: checkpoint {path}: no such file; check model.checkpoint"


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_checkpoint(refused, tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"cut{suffix}"
    if suffix == ".pth":
        torch.save(teacher_tensors(), path)
    else:
        save_file(teacher_tensors(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    told = refused("--checkpoint", path)
    assert told.startswith(f"error: checkpoint {path}: unreadable or truncated (")
    assert told.endswith("); give a safetensors file, or a .pth file that holds only tensors")


def test_a_checkpoint_that_would_run_code(refused, tmp_path: Path) -> None:
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "code.pth")
    assert "unreadable or truncated (Weights only load failed" in refused("--checkpoint", tmp_path / "code.pth")


def test_a_checkpoint_that_holds_no_tensors(refused, tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "other.pth")
    assert "holds no state dict; give a safetensors file" in refused("--checkpoint", tmp_path / "other.pth")


def test_a_checkpoint_of_another_architecture(refused, tmp_path: Path) -> None:
    path = tmp_path / "wide.safetensors"
    save_file(teacher_tensors(embed_dim=48), path)
    assert refused("--checkpoint", path) == (
        f"error: checkpoint {path}: checkpoint of another architecture: 'cls_token' is [1, 1, 48], the model wants "
        "[1, 1, 24]; 'pos_embed' is [1, 5, 48], the model wants [1, 5, 24]; 'patch_embed.proj.weight' is "
        "[48, 1, 4, 4], the model wants [24, 1, 4, 4] (and 28 more); "
        "check model.name and model.options against the checkpoint"
    )


def test_a_checkpoint_of_another_depth(refused, tmp_path: Path) -> None:
    save_file(teacher_tensors(depth=3), tmp_path / "deep.safetensors")
    told = refused("--checkpoint", tmp_path / "deep.safetensors")
    assert "'blocks.2." in told and "(and 9 more)" in told


def test_a_model_that_timm_does_not_have(refused) -> None:
    told = refused(change=("vit_tiny_patch16_224", "vit_tinny_patch16_224"))
    assert told.startswith(
        "error: model.name: timm has no model 'vit_tinny_patch16_224'; did you mean vit_tiny_patch16_224"
    )


def test_a_model_of_another_library(refused) -> None:
    assert refused(change=('"timm:', '"tim:')) == (
        "error: model 'tim:vit_tiny_patch16_224': unknown model library 'tim'; write one of hf:MODEL, timm:MODEL"
    )


def test_an_option_that_the_model_does_not_have(refused) -> None:
    assert refused(change=("num_heads", "num_head")) == (
        "error: model.options: unknown option 'num_head'; did you mean 'num_heads'?"
    )


def test_a_data_kind_that_nobody_knows(refused) -> None:
    assert refused("--data", "digit") == "error: data.source 'digit': unknown data kind 'digit'; did you mean 'digits'?"


def saved(path: Path, images: tuple[int, ...] = (60, 1, 8, 8), labels: object = None) -> str:
    random = np.random.default_rng(0)
    numbers = np.arange(images[0]) % 10 if labels is None else labels
    np.savez(path, images=random.integers(0, 256, images, dtype=np.uint8), labels=numbers)
    return f"npz:{path}"


def test_data_of_another_shape(refused, tmp_path: Path) -> None:
    source = saved(tmp_path / "wide.npz", (60, 1, 8, 12))
    assert refused("--data", source) == (
        f"error: data.source '{source}': 'images' is uint8[60, 1, 8, 12]; the model takes uint8[samples, 1, 8, 8]; "
        "convert the images to uint8 of that size, channels first or last, or change the model's image size"
    )


def test_labels_out_of_range(refused, tmp_path: Path) -> None:
    source = saved(tmp_path / "low.npz", labels=np.arange(60) % 10 - 1)
    told = refused("--data", source)
    assert told.startswith(
        f"error: data.source '{source}': the labels of the train split run from -1 to 8, there are 9 "
    )
    assert told.endswith("number the classes from 0 to 8, or give a name for each")


def test_other_classes_than_the_teachers(refused, tmp_path: Path) -> None:
    source = saved(tmp_path / "few.npz", labels=np.arange(60) % 7)
    assert refused("--data", source) == (
        f"error: data.source '{source}': the data has 7 classes, the teacher answers with 10; give the data that the "
        "teacher was trained for, or a teacher fine-tuned on this data"
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            ("memory_mb = 512", "memory_mb = 50"),
            "error: device 'attic': C6: the member needs 67 MB of memory, the device has 50: short by 17 MB; raise "
            "memory_mb of 'attic' or give it a smaller share",
        ),
        (("memory_mb = 512", "max_gflop = 1e-9"), "error: device 'attic': C5: the member needs "),
    ],
)
def test_a_device_that_is_too_small(refused, change: tuple[str, str], told: str) -> None:
    assert refused(change=change).startswith(told)


def test_more_devices_than_heads(refused) -> None:
    words = [word for _ in range(4) for word in ("--target", "cpu")]
    assert refused(*words) == (
        "error: policy: C3: 4 devices need at least 4 heads, the teacher has 3; use fewer devices, or set "
        "policy.overlap = true"
    )


def test_a_policy_file_that_is_not_there(refused, tmp_path: Path) -> None:
    told = refused(change=("[data]", '[policy]\nstrategy = "file"\nfile = "none.json"\n[data]'))
    assert told == f"error: policy {tmp_path / 'none.json'}: cannot be read; check policy.file"
