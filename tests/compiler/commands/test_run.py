"""`coformerc run` and `coformerc bench`: a cluster of local processes, and every input that cannot be asked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coformer_compiler.model.system import load_system
from tests.end_to_end.tiny import coformerc


@pytest.fixture
def pixels(out: Path) -> np.ndarray:
    return np.load(out / "bundles" / "hall" / "golden" / "input.npy")


def test_an_array_is_answered_as_torch_does(out: Path, pixels: np.ndarray, tmp_path: Path) -> None:
    import torch

    np.save(tmp_path / "x.npy", pixels[:3])
    outcome = coformerc("run", out, "--input", tmp_path / "x.npy", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    found = json.loads(outcome.out)
    system = load_system(next((out / "cache" / "boost").iterdir()))
    with torch.no_grad():
        wanted = system.aggregator(system.features(torch.from_numpy(pixels[:3]))).numpy()
    assert len(found["answers"]) == 3
    for answer, logits in zip(found["answers"], wanted, strict=True):
        np.testing.assert_allclose(answer["logits"], logits, atol=1e-4)
        assert answer["label"] == str(logits.argmax())
        assert answer["members"] == ["attic", "hall", "desk"]
        assert (answer["degraded"], answer["missing"]) == (False, {})
        assert set(answer["compute_ms"]) == {"attic", "hall", "desk"}
        assert sum(each["probability"] for each in answer["top"]) <= 1


def test_a_picture_is_answered_in_a_table(out: Path, pixels: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(pixels[0, 0]).save(tmp_path / "digit.png")
    np.save(tmp_path / "digit.npy", pixels[0])
    outcome = coformerc("run", out, "--input", tmp_path / "digit.png")
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert lines[0].split() == ["sample", "answer", "sure", "or", "ms", "by"]
    assert lines[1].endswith("attic, hall, desk")
    same = coformerc("run", out, "--input", tmp_path / "digit.npy").out.splitlines()
    assert lines[1].split()[:4] == same[1].split()[:4]


def refused(out: Path, path: Path) -> str:
    outcome = coformerc("run", out, "--input", path)
    assert (outcome.code, outcome.out) == (2, "")
    prefix = f"error: input {path}: "
    assert outcome.err.startswith(prefix)
    return outcome.err.removeprefix(prefix)


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.zeros((1, 8, 8), np.float32), "holds float32 [1, 8, 8]"),
        (np.zeros((8, 8), np.uint8), "holds uint8 [8, 8]"),
        (np.zeros((2, 3, 8, 8), np.uint8), "holds uint8 [2, 3, 8, 8]"),
        (np.zeros((0, 1, 8, 8), np.uint8), "holds uint8 [0, 1, 8, 8]"),
        (np.zeros((), np.uint8), "holds uint8 []"),
    ],
)
def test_arrays_of_another_type_or_shape(out: Path, tmp_path: Path, array: np.ndarray, told: str) -> None:
    np.save(tmp_path / "x.npy", array)
    assert refused(out, tmp_path / "x.npy") == f"{told}; give uint8 [1, 8, 8] or [samples, 1, 8, 8]\n"


@pytest.mark.parametrize("name", ["x.npy", "x.png", "x"])
@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"hello", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"])
def test_files_that_hold_neither_arrays_nor_pictures(out: Path, tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    told = refused(out, tmp_path / name)
    assert told.startswith("cannot be read (")
    assert told.endswith("); give a .npy file of uint8 pixels, or an image that Pillow can read\n")


def test_a_file_that_is_not_there(out: Path, tmp_path: Path) -> None:
    assert refused(out, tmp_path / "x.png").startswith("there is no such file; give a .npy file")


def test_pickled_objects_are_not_opened(out: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{}], object), allow_pickle=True)
    assert "allow_pickle=False" in refused(out, tmp_path / "x.npy")


def test_a_damaged_bundle_is_refused_before_anything_is_loaded(
    copied: Path, tmp_path: Path, pixels: np.ndarray
) -> None:
    np.save(tmp_path / "x.npy", pixels)
    with (copied / "bundles" / "desk" / "member.onnx").open("r+b") as file:
        file.seek(50)
        file.write(b"\0\0\0")
    outcome = coformerc("run", copied, "--input", tmp_path / "x.npy")
    assert outcome.code in (1, 2)
    assert "the process of 'desk' ended with exit code 2" in outcome.err
    assert "'member.onnx' has the SHA-256 " in outcome.err


def test_bench(out: Path) -> None:
    outcome = coformerc("bench", out)
    assert (outcome.code, outcome.err) == (0, "")
    lines = [line.split() for line in outcome.out.splitlines()]
    assert lines[0] == ["median", "ms", "p95", "ms", "runs"]
    assert [line[0] for line in lines[1:]] == ["attic", "hall", "desk", "all"]
    assert all(line[-1] == "50" and 0 < float(line[-3]) <= float(line[-2]) for line in lines[1:])
    assert max(map(len, outcome.out.splitlines())) <= 80
