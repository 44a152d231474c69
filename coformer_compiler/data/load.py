"""From `data.source` in the configuration to a data set."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from coformer_compiler.data.cifar100 import read_cifar100
from coformer_compiler.data.dataset import DataSet, Split, Splits, stratified_order
from coformer_compiler.data.digits import read_digits
from coformer_compiler.data.glyphs import read_glyphs
from coformer_compiler.data.imagefolder import read_imagefolder
from coformer_compiler.data.npz import read_npz
from coformer_compiler.data.request import Request
from coformer_runtime.errors import CoformerError

KINDS: dict[str, Callable[[str, Request], Splits]] = {
    "digits": read_digits,
    "imagefolder": read_imagefolder,
    "glyphs": read_glyphs,
    "npz": read_npz,
    "cifar100": read_cifar100,
}
"""The word before the colon of a source, and the function that reads what follows the colon."""

CALIBRATION = 1024


def load_data(
    source: str,
    *,
    image_size: int | tuple[int, int],
    channels: int,
    seed: int = 0,
    calibration: int = CALIBRATION,
    crop: float = 1.0,
    cache_dir: Path | None = None,
) -> DataSet:
    """Loads a data set and chooses its calibration samples.

    Args:
        source: `KIND` or `KIND:LOCATION`, such as "digits" or "imagefolder:flowers".
        image_size: height and width that the model takes, in pixels; one number for both.
        channels: 1 or 3.
        seed: of the choice of calibration samples. The splits do not depend on it.
        calibration: how many training samples to calibrate on; all where there are fewer.
        crop: share of a photograph's shorter side that the centre crop keeps, timm's `crop_pct`.
        cache_dir: where decoded images are kept; by default `~/.cache/coformer/data`.

    Raises:
        CoformerError: unknown kind, missing or unreadable file, wrong shape, labels out of range, a class or split
            without images.
    """
    kind, _, location = source.partition(":")
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1, cutoff=0.5)
        raise CoformerError(
            f"unknown data kind '{kind}'",
            f"data.source '{source}'",
            f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(KINDS)}",
        )
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if height < 1 or width < 1 or channels not in (1, 3):
        raise CoformerError(
            f"the model takes {channels} x {height} x {width}, which is no image",
            f"data.source '{source}'",
            "use a model of 1 or 3 channels and of at least one pixel",
        )
    if calibration < 1:
        raise CoformerError(f"{calibration} samples are too few", "data.calibration", "ask for at least one")
    if not 0 < crop <= 1:
        raise CoformerError(f"{crop} is no share", "data.crop", "give a number above 0, up to 1")
    request = Request(source, height, width, channels, crop, cache_dir or Path.home() / ".cache" / "coformer" / "data")
    splits = KINDS[kind](location, request)
    check_splits(splits, request)
    chosen = stratified_order(splits.train.labels, seed)[:calibration]
    digest = hashlib.sha256(splits.sha256.encode() + chosen.astype("<i8").tobytes()).hexdigest()
    return DataSet(
        name=source,
        train=splits.train,
        validation=splits.validation,
        calibration=Split(np.asarray(splits.train.inputs[chosen]), splits.train.labels[chosen]),
        test=splits.test,
        class_names=splits.class_names,
        sha256=digest,
    )


def check_splits(splits: Splits, request: Request) -> None:
    """Refuses what no kind may deliver.

    Raises:
        CoformerError: labels out of range, an empty split, or a class without training images.
    """
    classes = len(splits.class_names)
    named = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    for name, split in named.items():
        if len(split) == 0:
            raise CoformerError(f"the {name} split is empty", request.where, "add images: each split needs some")
        low, high = int(split.labels.min()), int(split.labels.max())
        if low < 0 or high >= classes:
            raise CoformerError(
                f"the labels of the {name} split run from {low} to {high}, there are {classes} classes",
                request.where,
                f"number the classes from 0 to {classes - 1}, or give a name for each",
            )
    count = np.bincount(splits.train.labels, minlength=classes)
    empty = [splits.class_names[label] for label in np.flatnonzero(count == 0)]
    if empty:
        raise CoformerError(
            f"{len(empty)} of {classes} classes have no training images, the first is '{empty[0]}'",
            request.where,
            "add images of that class, or number the others without a gap",
        )
