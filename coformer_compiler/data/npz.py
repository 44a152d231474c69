"""Data kind `npz:FILE`: arrays in NumPy's own archive."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from coformer_compiler.data.dataset import Images, Labels, Split, Splits, splits_of, stratified_order
from coformer_compiler.data.request import Request
from coformer_runtime.errors import CoformerError

HELD_OUT = 0.15
"""Share of the samples that makes the validation and the test split where the file has one array for all."""
SPLIT_SEED = 0


def read_npz(location: str, request: Request) -> Splits:
    """Reads `images` and `labels`, or `train_images`, `train_labels` and so on for `validation_` and `test_`.

    Images are uint8, (samples, channels, height, width) or channels last, or (samples, height, width) where the model
    takes one channel; they must have the model's size. Labels are whole numbers from 0. `class_names` may give names.

    Raises:
        CoformerError: the file cannot be read, an array is missing or has a wrong shape or type.
    """
    arrays = _read_arrays(location, request)
    if "images" in arrays:
        whole = _split_from_arrays(arrays, "", request)
        size = round(HELD_OUT * len(whole))
        test, validation, train = (
            Split(whole.inputs[part], whole.labels[part])
            for part in np.split(stratified_order(whole.labels, SPLIT_SEED), [size, 2 * size])
        )
    else:
        train, validation, test = (
            _split_from_arrays(arrays, f"{name}_", request) for name in ("train", "validation", "test")
        )
        whole = train
    if "class_names" in arrays:
        class_names = tuple(str(name) for name in arrays["class_names"])
    else:
        class_names = tuple(str(label) for label in range(int(whole.labels.max(initial=-1)) + 1))
    return splits_of(train, validation, test, class_names)


def _read_arrays(location: str, request: Request) -> dict[str, npt.NDArray[Any]]:
    path = Path(location).expanduser()
    if not location or not path.is_file():
        raise CoformerError(f"there is no file '{location}'", request.where, "name one that numpy.savez has written")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise CoformerError(
            f"'{location}' is not an archive of plain arrays ({error})",
            request.where,
            "write it with numpy.savez, without object arrays",
        ) from error


def _split_from_arrays(arrays: dict[str, npt.NDArray[Any]], prefix: str, request: Request) -> Split:
    for name in (f"{prefix}images", f"{prefix}labels"):
        if name not in arrays:
            raise CoformerError(
                f"the array '{name}' is missing; there are {', '.join(sorted(arrays)) or 'none'}",
                request.where,
                "store images and labels, or train_images, train_labels, validation_… and test_…",
            )
    images = _channels_first(arrays[f"{prefix}images"], f"{prefix}images", request)
    labels = arrays[f"{prefix}labels"]
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
        raise CoformerError(
            f"'{prefix}labels' is {labels.dtype}{list(labels.shape)} for {len(images)} images",
            request.where,
            "store one whole number per image",
        )
    kept: Labels = labels.astype(np.int64)
    return Split(images, kept)


def _channels_first(images: npt.NDArray[Any], name: str, request: Request) -> Images:
    channels, size = request.channels, (request.height, request.width)
    if images.dtype == np.uint8 and images.shape[1:] == (channels, *size):
        return images
    if images.dtype == np.uint8 and images.shape[1:] == (*size, channels):
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    if images.dtype == np.uint8 and channels == 1 and images.shape[1:] == size:
        return images[:, None]
    raise CoformerError(
        f"'{name}' is {images.dtype}{list(images.shape)}; "
        f"the model takes uint8[samples, {channels}, {size[0]}, {size[1]}]",
        request.where,
        "convert the images to uint8 of that size, channels first or last, or change the model's image size",
    )
