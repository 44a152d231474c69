"""Data kind `imagefolder:DIR`: photographs in one directory per class."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import numpy as np

from coformer_compiler.data.dataset import Images, Labels, Splits, stratified_order
from coformer_compiler.data.pixel_cache import SPLIT_NAMES, Undecoded, splits_from_undecoded
from coformer_compiler.data.request import Request
from coformer_compiler.data.resize import fit_image
from coformer_runtime.errors import CoformerError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})
VALIDATION_DIRECTORIES = ("val", "valid", "validation")
HELD_OUT = 0.15
"""Share of the training images that makes a split which has no directory of its own."""
SPLIT_SEED = 0


def read_imagefolder(location: str, request: Request) -> Splits:
    """Reads a directory of images, decoded once and kept in the cache.

    Either `DIR/train/CLASS/IMAGE` with `DIR/val` and `DIR/test` likewise, or `DIR/CLASS/IMAGE`. A split without a
    directory is held out from the training images, stratified by class. Where there is `val` but no `test`, as in
    ImageNet, `val` is the test split: what choices are made by must not be what is reported. Classes are the
    sorted names of the directories.

    Raises:
        CoformerError: a directory is missing, a class has no images, an image cannot be read.
    """
    root = Path(location).expanduser()
    if not location or not root.is_dir():
        raise CoformerError(
            f"there is no directory '{location}'", request.where, "name one that holds a directory per class"
        )
    train_directory = root / "train" if (root / "train").is_dir() else root
    class_names = _subdirectories(train_directory)
    if len(class_names) < 2:
        raise CoformerError(
            f"'{train_directory}' holds {len(class_names)} class directories",
            request.where,
            "give it a directory of images per class, two classes at least",
        )
    found = {"train": _list_images(train_directory, class_names, request)}
    if train_directory != root:
        found.update(_list_held_out(root, class_names, request))
    found = _hold_out(found)
    undecoded = Undecoded(
        key=_key_of(found, root, class_names, request),
        items={name: [path for path, _ in found[name]] for name in SPLIT_NAMES},
        labels={name: np.array([label for _, label in found[name]], dtype=np.int64) for name in SPLIT_NAMES},
        class_names=class_names,
        decode=functools.partial(_decode, request=request),
    )
    return splits_from_undecoded(undecoded, request)


def _subdirectories(directory: Path) -> tuple[str, ...]:
    return tuple(sorted(path.name for path in directory.iterdir() if path.is_dir() and not path.name.startswith(".")))


def _list_images(directory: Path, class_names: tuple[str, ...], request: Request) -> list[tuple[Path, int]]:
    found = []
    for label, name in enumerate(class_names):
        paths = sorted(path for path in (directory / name).rglob("*") if path.suffix.lower() in SUFFIXES)
        if not paths:
            raise CoformerError(
                f"class '{name}' has no images in '{directory / name}'",
                request.where,
                f"add images ({', '.join(sorted(SUFFIXES))}) or remove the directory",
            )
        found += [(path, label) for path in paths]
    return found


def _list_held_out(root: Path, class_names: tuple[str, ...], request: Request) -> dict[str, list[tuple[Path, int]]]:
    found = {}
    for name, directories in (("validation", VALIDATION_DIRECTORIES), ("test", ("test",))):
        directory = next((root / entry for entry in directories if (root / entry).is_dir()), None)
        if directory is None:
            continue
        differing = set(_subdirectories(directory)) ^ set(class_names)
        if differing:
            raise CoformerError(
                f"'{directory}' and '{root / 'train'}' differ in the classes {', '.join(sorted(differing)[:5])}",
                request.where,
                "give both the same class directories",
            )
        found[name] = _list_images(directory, class_names, request)
    if "test" not in found and "validation" in found:
        found["test"] = found.pop("validation")
    return found


def _hold_out(found: dict[str, list[tuple[Path, int]]]) -> dict[str, list[tuple[Path, int]]]:
    missing = [name for name in ("test", "validation") if name not in found]
    images = found["train"]
    labels: Labels = np.array([label for _, label in images], dtype=np.int64)
    order = stratified_order(labels, SPLIT_SEED)
    size = round(HELD_OUT * len(images))
    parts = {name: [images[i] for i in order[k * size : (k + 1) * size]] for k, name in enumerate(missing)}
    return {**found, **parts, "train": [images[i] for i in order[len(missing) * size :]]}


def _key_of(
    found: dict[str, list[tuple[Path, int]]], root: Path, class_names: tuple[str, ...], request: Request
) -> str:
    """Reading a million files to hash them would cost more than decoding; size and time of change stand for content."""
    shape = (request.channels, request.height, request.width, request.crop)
    digest = hashlib.sha256(repr(("imagefolder 1", shape, class_names)).encode())
    for name in SPLIT_NAMES:
        for path, label in found[name]:
            status = path.stat()
            relative = path.relative_to(root).as_posix()
            digest.update(repr((name, relative, label, status.st_size, status.st_mtime_ns)).encode())
    return digest.hexdigest()


def _decode(path: Path, request: Request) -> Images:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return fit_image(image, request)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow's decoders raise
        raise CoformerError(
            f"image '{path}' cannot be decoded ({error})", request.where, "replace or remove that file"
        ) from error
