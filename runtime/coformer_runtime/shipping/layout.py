"""An OCI image layout 1.0: a folder that holds releases, for a USB stick or a file server."""

import json
import os
from io import BufferedIOBase
from typing import IO, Any, Dict, List, Optional, Tuple

from ..durable import move, replace_file
from ..errors import CoformerError
from ..manifest_fields import parse_json
from .reference import Reference
from .store import MAX_DOCUMENT_BYTES, Descriptor, Store, canonical_json, check_digest, digest_of

LAYOUT_FILE, INDEX_FILE = "oci-layout", "index.json"
TAG = "org.opencontainers.image.ref.name"
_VERSION = {"imageLayoutVersion": "1.0.0"}
_CHUNK_BYTES = 1 << 20


class Layout(Store):
    """One layout folder; made where `write` says so and there is none."""

    def __init__(self, reference: Reference, write: bool = False) -> None:
        self._folder = os.path.abspath(reference.place)
        self._blobs = os.path.join(self._folder, "blobs", "sha256")
        self.where = "folder {}".format(reference.place)
        if os.path.isfile(os.path.join(self._folder, LAYOUT_FILE)):
            return
        if not write:
            raise CoformerError("it is not an OCI layout", self.where, "name a folder that `coformerc push` wrote")
        if os.path.isdir(self._folder) and os.listdir(self._folder):
            raise CoformerError("it holds something else", self.where, "name a new or empty folder, or an OCI layout")
        os.makedirs(self._blobs, exist_ok=True)
        replace_file(os.path.join(self._folder, INDEX_FILE), canonical_json({"schemaVersion": 2, "manifests": []}))
        replace_file(os.path.join(self._folder, LAYOUT_FILE), canonical_json(_VERSION))

    def _path(self, digest: str) -> str:
        return os.path.join(self._blobs, digest.partition(":")[2])

    def read_manifest(self, reference: str) -> bytes:
        """Return the manifest or index that a tag or digest names."""
        digest = reference if reference.startswith("sha256:") else self._tagged(reference)
        with self.open_blob(digest, 0)[0] as stream:
            content = stream.read(MAX_DOCUMENT_BYTES + 1)
        check_digest(content, digest, self.where)
        return content

    def _tagged(self, tag: str) -> str:
        tags = [str(entry.get("annotations", {}).get(TAG, "")) for entry in self._index()["manifests"]]
        if tag not in tags:
            there = ", ".join(sorted(filter(None, tags))) or "none"
            raise CoformerError("there is no '{}' (there: {})".format(tag, there), self.where, "name one of its tags")
        return str(self._index()["manifests"][tags.index(tag)]["digest"])

    def _index(self) -> Dict[str, Any]:
        path = os.path.join(self._folder, INDEX_FILE)
        try:
            with open(path, "rb") as stream:
                text = stream.read(MAX_DOCUMENT_BYTES).decode("utf-8")
            index: Dict[str, Any] = parse_json(text, path)
            entries: List[Any] = index["manifests"]
            if not all(isinstance(entry["digest"], str) for entry in entries):
                raise TypeError("a digest is not a text")
        except (OSError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise CoformerError(
                "its index is not readable ({})".format(error), path, "push the release again"
            ) from error
        return index

    def open_blob(self, digest: str, offset: int) -> Tuple[BufferedIOBase, int]:
        """Return a stream of a blob's content from `offset`."""
        try:
            stream = open(self._path(digest), "rb")  # noqa: SIM115 - the caller closes it
        except OSError as error:
            raise CoformerError(
                "{}... cannot be read ({})".format(digest[:19], error.strerror), self.where, "push the release again"
            ) from error
        stream.seek(offset)
        return stream, offset

    def has_blob(self, digest: str) -> bool:
        """Return whether the blob is there already; it appears whole."""
        return os.path.isfile(self._path(digest))

    def write_blob(self, descriptor: Descriptor, content: IO[bytes]) -> None:
        """Copy `content` into the folder."""
        part = self._path(descriptor.digest) + ".part"
        content.seek(0)
        with open(part, "wb") as stream:
            for chunk in iter(lambda: content.read(_CHUNK_BYTES), b""):
                stream.write(chunk)
            stream.flush()
            os.fsync(stream.fileno())
        move(part, self._path(descriptor.digest))

    def write_manifest(self, content: bytes, media_type: str, tag: Optional[str]) -> str:
        """Store a manifest or index, point `tag` at it where one is given, and return its digest."""
        digest = digest_of(content)
        if not self.has_blob(digest):
            replace_file(self._path(digest), content)
        if tag is not None:
            index = self._index()
            index["manifests"] = [e for e in index["manifests"] if e.get("annotations", {}).get(TAG) != tag]
            entry = {"mediaType": media_type, "digest": digest, "size": len(content), "annotations": {TAG: tag}}
            index["manifests"].append(entry)
            content = json.dumps(index, indent=2, sort_keys=True).encode("ascii")
            replace_file(os.path.join(self._folder, INDEX_FILE), content)
        return digest
