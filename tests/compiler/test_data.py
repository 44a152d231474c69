"""Data kinds: what they deliver, that it never changes, and how they refuse."""

from __future__ import annotations

import dataclasses
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from coformer_compiler.data import KINDS
from coformer_compiler.data.dataset import stratified_order
from tests.compiler.data_files import Load, can_become_tensors, pictures, refusal, splits, write_npz

# What all kinds have in common


@given(st.lists(st.integers(0, 5), min_size=1, max_size=200), st.integers(0, 2**32 - 1))
def test_every_prefix_of_the_order_is_stratified(labels: list[int], seed: int) -> None:
    array = np.array(labels, dtype=np.int64)
    order = stratified_order(array, seed)
    assert sorted(order) == list(range(len(labels)))
    whole = np.bincount(array, minlength=6)
    for size in range(len(labels) + 1):
        prefix = np.bincount(array[order[:size]], minlength=6)
        # Each class is within one sample of a share of its own that all classes have alike, so within 1 + classes / 2.
        assert np.all(np.abs(prefix - whole * size / len(labels)) <= 4)


def test_unknown_kind_suggests_the_nearest(load: Load) -> None:
    error = refusal(load, "imagefoldr:photos")
    assert str(error) == (
        "data.source 'imagefoldr:photos': unknown data kind 'imagefoldr'; did you mean 'imagefolder'?"
    )
    assert refusal(load, "xyz").mend == f"choose one of {', '.join(KINDS)}"


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"channels": 4}, "the model takes 4 x 8 x 8, which is no image"),
        ({"image_size": (8, 0)}, "the model takes 1 x 8 x 0, which is no image"),
        ({"calibration": 0}, "0 samples are too few"),
        ({"crop": 0.0}, "0.0 is no share"),
        ({"crop": 1.5}, "1.5 is no share"),
    ],
)
def test_refuses_impossible_requests(load: Load, options: dict[str, Any], what: str) -> None:
    assert refusal(load, "digits", **options).what == what


# digits


def test_digits_never_change(load: Load) -> None:
    """A teacher is trained on this training split: another one would test it on what it has seen."""
    data = load("digits")
    assert [len(split) for split in splits(data)] == [1097, 300, 1024, 400]
    assert all(split.inputs.shape[1:] == (1, 8, 8) and split.inputs.dtype == np.uint8 for split in splits(data))
    assert all(split.labels.dtype == np.int64 for split in splits(data))
    assert (data.train.inputs.min(), data.train.inputs.max()) == (0, 255)
    assert data.class_names == tuple("0123456789")
    assert data.classes == 10
    assert data.sha256 == "942f0b9e91d347e572bfedcdb2f1cea3b10ffe4a68d84d91b7b10bf5f6682ea1"


def test_digits_are_stratified_and_disjoint(load: Load) -> None:
    data = load("digits")
    for split in splits(data):
        share = np.bincount(split.labels, minlength=10) / len(split)
        assert np.all(np.abs(share - 0.1) < 0.01)
    rows = [{image.tobytes() for image in split.inputs} for split in (data.train, data.validation, data.test)]
    assert not rows[0] & rows[1] and not rows[0] & rows[2] and not rows[1] & rows[2]


def test_seed_chooses_calibration_samples_and_nothing_else(load: Load) -> None:
    one, other = load("digits", seed=0, calibration=100), load("digits", seed=1, calibration=100)
    for name in ("train", "validation", "test"):
        np.testing.assert_array_equal(getattr(one, name).inputs, getattr(other, name).inputs)
    assert len(one.calibration) == len(other.calibration) == 100
    assert not np.array_equal(one.calibration.inputs, other.calibration.inputs)
    assert one.sha256 != other.sha256
    assert load("digits", seed=0, calibration=100).sha256 == one.sha256
    train = {image.tobytes() for image in one.train.inputs}
    assert all(image.tobytes() in train for image in one.calibration.inputs)


def test_digits_in_another_shape(load: Load) -> None:
    data = load("digits", image_size=(12, 16), channels=3)
    assert data.train.inputs.shape == (1097, 3, 12, 16)
    np.testing.assert_array_equal(data.train.inputs[:, 0], data.train.inputs[:, 2])


def test_digits_take_no_location(load: Load) -> None:
    error = refusal(load, "digits:somewhere")
    assert str(error) == (
        "data.source 'digits:somewhere': the kind 'digits' takes no location, got 'somewhere'; write 'digits' alone"
    )


# npz


def test_npz_layouts_agree(load: Load, tmp_path: Path) -> None:
    images, labels = pictures(40, 3, 8, 6), np.arange(40) % 4
    first = load(write_npz(tmp_path / "a.npz", images=images, labels=labels), image_size=(8, 6), channels=3)
    last = write_npz(tmp_path / "b.npz", images=images.transpose(0, 2, 3, 1), labels=labels.astype(np.uint8))
    other = load(last, image_size=(8, 6), channels=3)
    assert first.sha256 == other.sha256
    assert [len(split) for split in splits(first)] == [28, 6, 28, 6]
    for split in splits(first):
        for image, label in zip(split.inputs, split.labels, strict=True):
            assert any(np.array_equal(image, images[i]) for i in np.flatnonzero(labels == label))
    grey = load(write_npz(tmp_path / "c.npz", images=images[:, 0], labels=labels), image_size=(8, 6))
    np.testing.assert_array_equal(grey.test.inputs[:, 0], first.test.inputs[:, 0])


def test_npz_with_splits_and_names(load: Load, tmp_path: Path) -> None:
    arrays: dict[str, Any] = {"class_names": np.array(["cat", "dog"])}
    for i, name in enumerate(("train", "validation", "test")):
        arrays |= {f"{name}_images": pictures(6, 8, 8, seed=i), f"{name}_labels": np.arange(6) % 2}
    data = load(write_npz(tmp_path / "d.npz", **arrays))
    assert data.class_names == ("cat", "dog")
    np.testing.assert_array_equal(data.test.inputs[:, 0], arrays["test_images"])
    np.testing.assert_array_equal(data.test.labels, arrays["test_labels"])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"images": pictures(9, 1, 9, 9), "labels": np.arange(9)},
            "'images' is uint8[9, 1, 9, 9]; the model takes uint8[samples, 1, 8, 8]; convert the images to uint8",
        ),
        ({"images": np.zeros((9, 1, 8, 8), np.float32), "labels": np.arange(9)}, "'images' is float32[9, 1, 8, 8]"),
        ({"images": pictures(9, 1, 8, 8), "labels": np.arange(8)}, "'labels' is int64[8] for 9 images; store one"),
        ({"images": pictures(9, 1, 8, 8), "labels": np.zeros(9)}, "'labels' is float64[9] for 9 images"),
        ({"images": pictures(9, 1, 8, 8)}, "the array 'labels' is missing; there are images; store images and"),
        ({"x": np.zeros(1)}, "the array 'train_images' is missing; there are x;"),
        (
            {"images": pictures(20, 1, 8, 8), "labels": np.arange(20) % 5, "class_names": np.array(list("abc"))},
            "the labels of the train split run from 0 to 4, there are 3 classes; number the classes from 0 to 2",
        ),
        ({"images": pictures(20, 1, 8, 8), "labels": np.arange(20) % 4 - 1}, "the train split run from -1 to 2"),
        (
            {"images": pictures(20, 1, 8, 8), "labels": (np.arange(20) % 2) * 2},
            "1 of 3 classes have no training samples, the first is '1'; add samples of that class",
        ),
        ({"images": pictures(0, 1, 8, 8), "labels": np.arange(0)}, "the train split is empty; add samples"),
        ({"images": np.array([None]), "labels": np.arange(1)}, "is not an archive of plain arrays (Object arrays"),
    ],
)
def test_npz_refusals(load: Load, tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    source = write_npz(tmp_path / "bad.npz", **arrays)
    error = refusal(load, source)
    assert error.where == f"data.source '{source}'"
    assert message in str(error)


def test_npz_files_that_are_none(load: Load, tmp_path: Path) -> None:
    assert "there is no file 'nowhere.npz'; name one that numpy.savez" in str(refusal(load, "npz:nowhere.npz"))
    assert "there is no file ''" in str(refusal(load, "npz:"))
    whole = tmp_path / "whole.npz"
    write_npz(whole, images=pictures(40, 1, 8, 8), labels=np.arange(40) % 4)
    content = whole.read_bytes()
    array = io.BytesIO()
    np.save(array, np.zeros(3))
    for bad in (content[: len(content) // 2], b"", b"text", array.getvalue(), content[:60] + b"!" + content[61:]):
        (tmp_path / "bad.npz").write_bytes(bad)
        assert "bad.npz' is not an archive of plain arrays" in str(refusal(load, f"npz:{tmp_path / 'bad.npz'}"))


# imagefolder


def write_images(directory: Path, count: int, *, size: tuple[int, int] = (20, 16), start: int = 0) -> None:
    directory.mkdir(parents=True)
    for i in range(count):
        image = Image.fromarray(pictures(1, size[1], size[0], 3, seed=start + i)[0])
        image.save(directory / f"{i:03}.png")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for i, name in enumerate(("dog", "cat", "cow")):
        write_images(root / name, 20, start=100 * i)
    return root


def test_imagefolder_holds_out_and_sorts_the_classes(load: Load, photos: Path) -> None:
    data = load(f"imagefolder:{photos}", channels=3)
    assert data.class_names == ("cat", "cow", "dog")
    assert [len(split) for split in splits(data)] == [42, 9, 42, 9]
    assert np.bincount(data.test.labels).tolist() == np.bincount(data.validation.labels).tolist() == [3, 3, 3]
    assert data.train.inputs.shape == (42, 3, 8, 8)
    assert isinstance(data.train.inputs, np.memmap)


def test_imagefolder_decodes_once(load: Load, photos: Path, tmp_path: Path) -> None:
    source = f"imagefolder:{photos}"
    first = load(source, channels=3)
    (entry,) = (tmp_path / "cache").iterdir()
    written = (entry / "train.npy").stat().st_mtime_ns
    again = load(source, channels=3)
    assert (again.sha256, (entry / "train.npy").stat().st_mtime_ns) == (first.sha256, written)
    load(source, channels=1)
    os.utime(photos / "cat" / "000.png", ns=(0, 0))
    assert load(source, channels=3).sha256 == first.sha256
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_imagefolder_scales_and_crops_the_centre(load: Load, tmp_path: Path) -> None:
    stripes = np.zeros((10, 30, 3), dtype=np.uint8)
    stripes[:, 10:20] = [10, 200, 30]
    for name in ("a", "b"):
        (tmp_path / "stripes" / name).mkdir(parents=True)
        for i in range(10):
            Image.fromarray(stripes).save(tmp_path / "stripes" / name / f"{i}.png")
    data = load(f"imagefolder:{tmp_path / 'stripes'}", image_size=10, channels=3)
    assert np.all(data.train.inputs == np.array([10, 200, 30], dtype=np.uint8)[:, None, None])
    scaled = load(f"imagefolder:{tmp_path / 'stripes'}", image_size=10, channels=3, crop=0.5)
    assert np.all(scaled.train.inputs[:, 1, :, 2:8] > 190)


def test_imagefolder_with_directories_for_the_splits(load: Load, tmp_path: Path) -> None:
    root = tmp_path / "split"
    for i, split in enumerate(("train", "val", "test")):
        for k, name in enumerate(("a", "b")):
            write_images(root / split / name, 4 + i, start=100 * i + 10 * k)
    data = load(f"imagefolder:{root}")
    assert [len(data.train), len(data.validation), len(data.test)] == [8, 10, 12]
    (root / "test").rename(root / "hidden")
    only_val = load(f"imagefolder:{root}")
    assert [len(only_val.train), len(only_val.validation), len(only_val.test)] == [7, 1, 10]
    np.testing.assert_array_equal(only_val.test.inputs, data.validation.inputs)


def test_imagefolder_refusals(load: Load, photos: Path, tmp_path: Path) -> None:
    assert "there is no directory 'nowhere'; name one that holds" in str(refusal(load, "imagefolder:nowhere"))
    assert "there is no directory ''" in str(refusal(load, "imagefolder:"))
    (tmp_path / "bare").mkdir()
    assert "bare' holds 0 class directories; give it" in str(refusal(load, f"imagefolder:{tmp_path / 'bare'}"))
    (photos / "yak").mkdir()
    assert "class 'yak' has no images in" in str(refusal(load, f"imagefolder:{photos}"))


def test_imagefolder_with_other_classes_in_val(load: Load, tmp_path: Path) -> None:
    for directory in ("train/a", "train/b", "val/a", "val/c"):
        write_images(tmp_path / "mixed" / directory, 2)
    error = refusal(load, f"imagefolder:{tmp_path / 'mixed'}")
    assert "differ in the classes b, c; give both the same class directories" in str(error)


@pytest.mark.parametrize("content", [b"", b"no image", None], ids=["empty", "text", "truncated"])
def test_imagefolder_names_the_broken_image(load: Load, photos: Path, tmp_path: Path, content: bytes | None) -> None:
    broken = photos / "cow" / "007.png"
    broken.write_bytes(broken.read_bytes()[:200] if content is None else content)
    error = refusal(load, f"imagefolder:{photos}", channels=3)
    assert f"image '{broken}' cannot be decoded" in error.what
    assert error.mend == "replace or remove that file"
    assert list((tmp_path / "cache").iterdir()) == [], "nothing half-written is left"


def test_damaged_cache_is_named(load: Load, photos: Path, tmp_path: Path) -> None:
    load(f"imagefolder:{photos}")
    (entry,) = (tmp_path / "cache").iterdir()
    (entry / "test.npy").write_bytes(b"")
    error = refusal(load, f"imagefolder:{photos}")
    assert error.where == f"data cache '{entry}'"
    assert error.mend == "delete that directory"
    (entry / "digest.json").write_text(json.dumps([]))
    assert "are damaged" in refusal(load, f"imagefolder:{photos}").what


def test_cache_that_cannot_be_written_is_named(load: Load, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file in its place")
    error = refusal(load, f"imagefolder:{photos}")
    assert "decoded images cannot be written" in error.what
    assert error.where == f"data cache '{tmp_path / 'cache'}'"


def test_all_arrays_can_become_tensors(load: Load, photos: Path, tmp_path: Path) -> None:
    """PyTorch warns of read-only arrays, and warnings are errors here."""
    npz = write_npz(tmp_path / "a.npz", images=pictures(40, 3, 32, 32), labels=np.arange(40) % 4)
    for source in ("digits", f"imagefolder:{photos}", npz):
        assert can_become_tensors(load(source, image_size=32, channels=3))


def test_data_sets_are_frozen(load: Load) -> None:
    data = load("digits")
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.name = "letters"  # type: ignore[misc]
