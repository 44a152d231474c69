"""One file from a store to the disk: resumed where it was cut off, believed only by its SHA-256."""

import os
import time
from typing import Any, Callable, NamedTuple, Optional, Tuple

from ..bundle import file_sha256
from ..durable import move
from ..errors import CheckFailed, CoformerError
from ..manifest import FileSpec
from .store import BROKEN, Store

BLOCK_BYTES = 1 << 16
TRIES = 5
"""Connections without a single new byte before giving up."""
SLOWEST_BYTES_S, SLOW_FOR_S = 1024, 30.0
"""A connection that brings less, for so long, is as good as lost."""


class Patience(NamedTuple):
    """How long to go on: connections without progress, what waits between them, and the slowest that counts."""

    tries: int = TRIES
    sleep: Callable[[float], None] = time.sleep
    slow_for_s: float = SLOW_FOR_S


def download(store: Store, spec: FileSpec, path: str, patience: Patience = Patience()) -> int:  # noqa: B008
    """Bring a file to `path`, going on with `path`.part where there is one; return the bytes that travelled.

    Raises:
        CheckFailed: the store gives other content than the manifest names.
        CoformerError: the store cannot be reached, or has no such content.
    """
    part = path + ".part"
    resumed = os.path.exists(part)
    travelled = _complete(store, spec, part, patience)
    if file_sha256(part) != spec.sha256 and resumed:  # what was there before may be what is wrong
        os.unlink(part)
        travelled += _complete(store, spec, part, patience)
    found = file_sha256(part)
    if found != spec.sha256:
        os.unlink(part)
        raise CheckFailed(
            "'{}' came with the SHA-256 {}..., the manifest says {}...".format(spec.path, found[:12], spec.sha256[:12]),
            store.where,
            "pull again; if it stays so, the store is damaged or hostile: push the release again, elsewhere",
        )
    move(part, path)
    return travelled


def _complete(store: Store, spec: FileSpec, part: str, patience: Patience) -> int:
    """Fill `part` to the file's size; return the bytes that travelled."""
    travelled = 0
    with open(part, "ab") as target:
        if target.tell() > spec.size_bytes:
            target.truncate(0)
        fruitless = 0
        while os.fstat(target.fileno()).st_size < spec.size_bytes:
            got, problem = _append(store, spec, target, patience)
            travelled += got
            fruitless = 0 if got else fruitless + 1
            if fruitless == patience.tries or travelled > 4 * spec.size_bytes + (1 << 20):
                raise CoformerError(
                    "'{}' breaks off at byte {:,} of {:,}{}".format(
                        spec.path,
                        os.fstat(target.fileno()).st_size,
                        spec.size_bytes,
                        " ({})".format(problem) if problem else "",
                    ),
                    store.where,
                    "check the network, then run the same command again: it goes on from there",
                )
            if fruitless:
                patience.sleep(min(30.0, 0.5 * 2**fruitless))
        os.fsync(target.fileno())
    return travelled


def _append(store: Store, spec: FileSpec, target: Any, patience: Patience) -> Tuple[int, Optional[Exception]]:
    """Append what one connection brings; return its bytes, and what broke it."""
    have = os.fstat(target.fileno()).st_size
    stream, start = store.open_blob("sha256:" + spec.sha256, have)
    got, since, since_bytes = 0, time.monotonic(), 0
    with stream:
        if start != have:  # the store does not serve ranges
            target.truncate(start)
            have = start
        while have + got < spec.size_bytes:
            try:
                block = stream.read1(min(BLOCK_BYTES, spec.size_bytes - have - got))
            except BROKEN as error:
                return got, error
            if not block:
                return got, None
            target.write(block)
            target.flush()
            got += len(block)
            now = time.monotonic()
            if now - since > patience.slow_for_s:
                if got - since_bytes < SLOWEST_BYTES_S * (now - since):
                    return got, TimeoutError("too slow")
                since, since_bytes = now, got
    return got, None
