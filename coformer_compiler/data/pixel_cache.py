"""Keeps decoded images of large data sets on disk, one memory-mapped array per split.

Decoding is done once; later builds map the files, and a batch reads only its own rows.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from coformer_compiler.data.dataset import Images, Labels, Split, Splits, digest_of
from coformer_compiler.data.request import Request
from coformer_runtime.errors import CoformerError

SPLIT_NAMES = ("train", "validation", "test")
DECODED_AT_ONCE = 256

Item = TypeVar("Item")


@dataclass(frozen=True)
class Undecoded(Generic[Item]):
    """A source whose images are still to be decoded.

    Attributes:
        key: digest of everything that decides the pixels; names the cache entry.
        items: for each split, what `decode` turns into an image.
        labels: for each split, (samples,) int64.
        class_names: one per class, by label.
        decode: from an item to (channels, height, width) uint8; called from several threads.
    """

    key: str
    items: dict[str, list[Item]]
    labels: dict[str, Labels]
    class_names: tuple[str, ...]
    decode: Callable[[Item], Images]


def splits_from_undecoded(source: Undecoded[Item], request: Request) -> Splits:
    """Returns memory-mapped splits, decoding the images where the cache has not got them.

    Raises:
        CoformerError: an image cannot be decoded, the cache cannot be written, or an entry of it is damaged.
    """
    entry = request.cache_dir / source.key
    if not entry.exists():
        _write_entry(entry, source, request)
    try:
        sha256 = json.loads((entry / "digest.json").read_text("utf-8"))["sha256"]
        parts = {name: _map_split(entry, name, source.labels[name]) for name in SPLIT_NAMES}
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise CoformerError(
            f"the decoded images are damaged ({error})", f"data cache '{entry}'", "delete that directory"
        ) from error
    return Splits(parts["train"], parts["validation"], parts["test"], source.class_names, sha256)


def _map_split(entry: Path, name: str, labels: Labels) -> Split:
    images = np.load(entry / f"{name}.npy", mmap_mode="c", allow_pickle=False)
    if len(images) != len(labels) or images.dtype != np.uint8:
        raise ValueError(f"{name}.npy holds {len(images)} images of {images.dtype} for {len(labels)} labels")
    return Split(images, labels)


def _write_entry(entry: Path, source: Undecoded[Item], request: Request) -> None:
    """Writes the entry beside its place and renames it, so that a half-written one is never found."""
    try:
        request.cache_dir.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".writing-", dir=request.cache_dir))
    except OSError as error:
        raise _cannot_write(request, error) from error
    try:
        parts = tuple(_write_split(scratch, name, source, request) for name in SPLIT_NAMES)
        digest = {"sha256": digest_of(parts, source.class_names)}
        (scratch / "digest.json").write_text(json.dumps(digest) + "\n", "utf-8")
        if not entry.exists():  # another build may have been quicker
            scratch.rename(entry)
    except OSError as error:
        raise _cannot_write(request, error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write_split(directory: Path, name: str, source: Undecoded[Item], request: Request) -> Split:
    items = source.items[name]
    shape = (len(items), request.channels, request.height, request.width)
    images = np.lib.format.open_memmap(directory / f"{name}.npy", mode="w+", dtype=np.uint8, shape=shape)
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(items), DECODED_AT_ONCE):
            batch = items[start : start + DECODED_AT_ONCE]
            for i, image in enumerate(pool.map(source.decode, batch), start):
                images[i] = image
    images.flush()
    return Split(images, source.labels[name])


def _cannot_write(request: Request, error: OSError) -> CoformerError:
    return CoformerError(
        f"decoded images cannot be written ({error})",
        f"data cache '{request.cache_dir}'",
        "make room there, or choose another cache directory",
    )
