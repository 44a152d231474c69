"""What a registry and a layout folder have in common: content by its digest, and tags that point at it."""

import hashlib
import http.client
import json
import socket
import ssl
import time
from io import BufferedIOBase
from typing import IO, Any, NamedTuple, Optional, Tuple

from ..errors import CheckFailed, CoformerError

MAX_DOCUMENT_BYTES = 4 << 20
"""What the distribution specification asks of every registry for manifests; ours are smaller."""

BROKEN = (OSError, http.client.HTTPException, ssl.SSLError, socket.timeout)
"""What a connection that ends early raises."""
DOCUMENT_LIMIT_S = 60.0
"""For all of a document of a few kilobytes."""
_TRIES = 3


class Descriptor(NamedTuple):
    """One piece of content: `digest` is "sha256:" and 64 hex digits, `title` a file's path in its bundle or ""."""

    media_type: str
    digest: str
    size_bytes: int
    title: str = ""


class Store:
    """A place that holds releases. A context manager; its methods raise CoformerErrors."""

    where = ""
    """What error messages call it."""

    def read_manifest(self, reference: str) -> bytes:
        """Return the manifest or index that a tag or digest names, as it is there, not yet checked."""
        raise NotImplementedError

    def open_blob(self, digest: str, offset: int) -> Tuple[BufferedIOBase, int]:
        """Return a stream of a blob's content and where it begins: at `offset`, or at 0 where that is not served."""
        raise NotImplementedError

    def has_blob(self, digest: str) -> bool:
        """Return whether the blob is there already."""
        raise NotImplementedError

    def write_blob(self, descriptor: Descriptor, content: IO[bytes]) -> None:
        """Store `content`, which can seek."""
        raise NotImplementedError

    def write_manifest(self, content: bytes, media_type: str, tag: Optional[str]) -> str:
        """Store a manifest or index, point `tag` at it where one is given, and return its digest."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of connections."""

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def read_within(stream: BufferedIOBase, most: int) -> bytes:
    """Return what a stream brings, at most one byte more than `most`; a drip beyond DOCUMENT_LIMIT_S is a time-out."""
    pieces, size, until = [], 0, time.monotonic() + DOCUMENT_LIMIT_S
    while size <= most:
        piece = stream.read1(most + 1 - size)
        if not piece:
            break
        pieces.append(piece)
        size += len(piece)
        if time.monotonic() > until:
            raise socket.timeout("timed out")
    return b"".join(pieces)


def digest_of(content: bytes) -> str:
    """Return "sha256:…" of some bytes."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def read_document(store: Store, digest: str) -> bytes:
    """Return the manifest with this digest, checked; raise a CheckFailed if the store gives something else."""
    content = store.read_manifest(digest)
    check_digest(content, digest, store.where)
    return content


def read_small_blob(store: Store, descriptor: Descriptor) -> bytes:
    """Return a blob of a few kilobytes, checked; raise a CheckFailed if the store gives something else."""
    if descriptor.size_bytes > MAX_DOCUMENT_BYTES:
        raise CheckFailed(
            "a document of {:,} bytes, at most {:,} are read".format(descriptor.size_bytes, MAX_DOCUMENT_BYTES),
            "{}, {}".format(store.where, descriptor.digest),
            "push the release again",
        )
    for _ in range(_TRIES):
        content = _read_once(store, descriptor)
        if len(content) == descriptor.size_bytes:
            check_digest(content, descriptor.digest, store.where)
            return content
    raise CoformerError(
        "{}... has {:,} bytes, it should have {:,}".format(descriptor.digest[:19], len(content), descriptor.size_bytes),
        store.where,
        "check the network and run the same command again, or push the release again",
    )


def _read_once(store: Store, descriptor: Descriptor) -> bytes:
    """What one connection brings of a blob, at most one byte more than it has."""
    stream, start = store.open_blob(descriptor.digest, 0)
    with stream:
        try:
            return read_within(stream, descriptor.size_bytes) if start == 0 else b""
        except BROKEN:
            return b""


def check_digest(content: bytes, digest: str, where: str) -> None:
    """Raise a CheckFailed unless the content has this digest."""
    found = digest_of(content)
    if found != digest:
        raise CheckFailed(
            "the content for {}... has the digest {}...".format(digest[:19], found[:19]),
            where,
            "pull again; if it stays so, the store is damaged or hostile: push the release again, elsewhere",
        )


def canonical_json(value: Any) -> bytes:
    """Return JSON with sorted keys and no spaces: the same bytes for the same value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")
