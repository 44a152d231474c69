"""Data kind `cifar100:DIR`: the files `train`, `test` and `meta` of the python version of CIFAR-100."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from coformer_compiler.data.dataset import Images, Labels, Split, Splits, splits_of, stratified_order
from coformer_compiler.data.pixel_cache import SPLIT_NAMES, Undecoded, splits_from_undecoded
from coformer_compiler.data.plain_pickle import plain_data_from_pickle
from coformer_compiler.data.request import Request
from coformer_compiler.data.resize import fit_pixels
from coformer_runtime.errors import CoformerError

SIZE, CHANNELS = 32, 3
HELD_OUT = 0.1
"""Share of the training images that makes the validation split."""
SPLIT_SEED = 0


def read_cifar100(location: str, request: Request) -> Splits:
    """Reads CIFAR-100 with its fine labels; the pickles are read as data, none of them is executed.

    At 32 x 32 and three channels the images stay in memory; for another shape they are resized once, into the cache.

    Raises:
        CoformerError: a file is missing, damaged, or not what its name says.
    """
    root = Path(location).expanduser()
    contents = {name: _read_file(root, name, location, request) for name in ("train", "test", "meta")}
    names = _read_pickle(contents["meta"], root / "meta").get(b"fine_label_names")
    if not isinstance(names, list) or not all(isinstance(name, bytes) for name in names):
        raise _not_cifar(root / "meta", "'fine_label_names' is missing or no list of names")
    class_names = tuple(name.decode("utf-8", "replace") for name in names)
    all_train = _split_from_pickle(contents["train"], root / "train")
    test = _split_from_pickle(contents["test"], root / "test")
    order = stratified_order(all_train.labels, SPLIT_SEED)
    held_out, kept = np.split(order, [round(HELD_OUT * len(order))])
    train, validation = (Split(all_train.inputs[part], all_train.labels[part]) for part in (kept, held_out))
    if (request.channels, request.height, request.width) == (CHANNELS, SIZE, SIZE):
        return splits_of(train, validation, test, class_names)

    key = hashlib.sha256(repr(("cifar100 1", request.channels, request.height, request.width)).encode())
    for content in contents.values():
        key.update(hashlib.sha256(content).digest())
    parts = dict(zip(SPLIT_NAMES, (train, validation, test), strict=True))
    undecoded = Undecoded(
        key=key.hexdigest(),
        items={name: list(split.inputs) for name, split in parts.items()},
        labels={name: split.labels for name, split in parts.items()},
        class_names=class_names,
        decode=functools.partial(_resize, request=request),
    )
    return splits_from_undecoded(undecoded, request)


def _read_file(root: Path, name: str, location: str, request: Request) -> bytes:
    try:
        return (root / name).read_bytes()
    except OSError as error:
        raise CoformerError(
            f"the file '{name}' of CIFAR-100 cannot be read from '{location}' ({error.strerror})",
            request.where,
            "name the directory that holds train, test and meta of the python version (cifar-100-python)",
        ) from error


def _read_pickle(content: bytes, path: Path) -> dict[Any, Any]:
    data = plain_data_from_pickle(content, f"file '{path}'")
    if not isinstance(data, dict):
        raise _not_cifar(path, f"it holds a {type(data).__name__} and no dictionary")
    return data


def _split_from_pickle(content: bytes, path: Path) -> Split:
    data = _read_pickle(content, path)
    pixels, labels = data.get(b"data"), data.get(b"fine_labels")
    flat = CHANNELS * SIZE * SIZE
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (flat,):
        raise _not_cifar(path, f"'data' is missing or not uint8[samples, {flat}]")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise _not_cifar(path, "'fine_labels' is missing or no list of whole numbers")
    if len(labels) != len(pixels):
        raise _not_cifar(path, f"{len(labels)} labels for {len(pixels)} images")
    whole: Labels = np.array(labels, dtype=np.int64)
    return Split(pixels.reshape(-1, CHANNELS, SIZE, SIZE), whole)


def _not_cifar(path: Path, what: str) -> CoformerError:
    return CoformerError(what, f"file '{path}'", "use the files of the python version of CIFAR-100")


def _resize(image: Images, request: Request) -> Images:
    fitted: Images = fit_pixels(image[None], request)[0]
    return fitted
