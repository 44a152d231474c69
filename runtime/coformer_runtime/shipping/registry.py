"""An OCI registry: the distribution specification 1.1, as far as pushing and pulling need it."""

import io
import re
from io import BufferedIOBase
from typing import IO, Optional, Tuple

from ..errors import CoformerError
from .http import Body, Http, HttpOptions, Reply, Unavailable
from .login import Credentials
from .manifests import IMAGE_INDEX, IMAGE_MANIFEST
from .reference import Reference
from .store import Descriptor, Store, digest_of

CHUNK_BYTES = 16 << 20
"""Larger blobs go up in pieces of this size, so that a lost connection costs at most one of them."""

_OCTETS = "application/octet-stream"
_UPLOADED = re.compile(r"(?:bytes=)?0-(\d+)")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")


class Registry(Store):
    """One repository of a registry.

    Args:
        reference: says which.
        options: how to talk to it.
        credentials: to log in with, where it asks.
        write: whether to ask for the right to push.
        chunk_bytes: see `CHUNK_BYTES`.
    """

    def __init__(
        self,
        reference: Reference,
        options: HttpOptions,
        credentials: Optional[Credentials] = None,
        write: bool = False,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        scope = "repository:{}:{}".format(reference.name, "pull,push" if write else "pull")
        self._http = Http(reference.place, options, credentials, scope)
        self._tries, self._chunk_bytes = options.tries, chunk_bytes
        self._base = "{}/v2/{}".format(self._http.base, reference.name)
        self.where = "registry {}/{}".format(reference.place, reference.name)

    def read_manifest(self, reference: str) -> bytes:
        """Return the manifest or index that a tag or digest names, as it is there, not yet checked."""
        url = "{}/manifests/{}".format(self._base, reference)
        reply = self._http.ask("GET", url, (200, 404), {"Accept": "{}, {}".format(IMAGE_INDEX, IMAGE_MANIFEST)})
        if reply.status == 404:
            raise CoformerError(
                "there is no '{}'".format(reference),
                self.where,
                "check the name and the tag, or push the release first",
            )
        return reply.body

    def open_blob(self, digest: str, offset: int) -> Tuple[BufferedIOBase, int]:
        """Return a stream of a blob's content and where it begins; a range that is not served begins at 0."""
        headers = {"Range": "bytes={}-".format(offset)} if offset else {}
        response = self._http.stream("{}/blobs/{}".format(self._base, digest), (200, 206, 416), headers)
        if response.status == 416:  # the part that we have is as long as the blob, or longer
            response.close()
            return self.open_blob(digest, 0)
        start = 0
        if response.status == 206:
            served = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if served is None or int(served.group(1)) > offset:
                response.close()
                raise CoformerError("it served another range than asked for", self.where, "check the registry")
            start = int(served.group(1))
        return response, start

    def has_blob(self, digest: str) -> bool:
        """Return whether the blob is there already."""
        return self._http.ask("HEAD", "{}/blobs/{}".format(self._base, digest), (200, 404)).status == 200

    def write_blob(self, descriptor: Descriptor, content: IO[bytes]) -> None:
        """Upload in one piece, or in several; go on where a lost connection left off."""
        for attempt in range(self._tries):
            location = self._begin()
            sent = 0
            if descriptor.size_bytes > self._chunk_bytes:
                location, sent = self._patch(location, descriptor, content)
            if sent < 0:
                continue  # the registry has forgotten the upload
            url = "{}{}digest={}".format(location, "&" if "?" in location else "?", descriptor.digest)
            body = Body(content, sent, descriptor.size_bytes - sent)
            try:
                reply = self._http.ask("PUT", url, (201, 400, 404), {"Content-Type": _OCTETS}, body, tries=1)
            except Unavailable:
                if attempt + 1 == self._tries:
                    raise
                self._http.pause(attempt)
                if self.has_blob(descriptor.digest):  # it arrived, only the answer was lost
                    return
                continue
            if reply.status == 201:
                return
            self._http.pause(attempt)
        raise CoformerError(
            "it did not take the content {}... in {} tries".format(descriptor.digest[:19], self._tries),
            self.where,
            "run the same command again; what is there already is not sent twice",
        )

    def _begin(self) -> str:
        reply = self._http.ask("POST", "{}/blobs/uploads/".format(self._base), (202,))
        return self._location(reply)

    def _location(self, reply: Reply) -> str:
        location = reply.headers.get("Location")
        if not location:
            raise CoformerError("it began an upload without saying where", self.where, "check the registry")
        return self._http.absolute(location)

    def _patch(self, location: str, descriptor: Descriptor, content: IO[bytes]) -> Tuple[str, int]:
        """Send pieces until all is sent; return the next location, and bytes sent or -1 for an upload forgotten."""
        sent = stalled = 0
        while sent < descriptor.size_bytes:
            size = min(self._chunk_bytes, descriptor.size_bytes - sent)
            headers = {"Content-Type": _OCTETS, "Content-Range": "{}-{}".format(sent, sent + size - 1)}
            try:
                body = Body(content, sent, size)
                reply = self._http.ask("PATCH", location, (202, 204, 404, 416), headers, body, tries=1)
                fine = reply.status in (202, 204)
            except Unavailable:
                if stalled + 1 == self._tries:
                    raise
                fine = False
            if not fine:
                self._http.pause(stalled)
                stalled += 1
                reply = self._http.ask("GET", location, (202, 204, 404))
                if reply.status == 404 or stalled == self._tries:
                    return location, -1
            else:
                stalled = 0
            location = self._location(reply)
            sent = self._received(reply, sent + size if fine else 0)
        return location, sent

    def _received(self, reply: Reply, otherwise: int) -> int:
        """How many bytes the registry says it has; its Range is inclusive, "0-0" is also said for nothing."""
        found = _UPLOADED.fullmatch(reply.headers.get("Range", ""))
        if found is None:
            return otherwise
        last = int(found.group(1))
        return 0 if last == 0 else last + 1

    def write_manifest(self, content: bytes, media_type: str, tag: Optional[str]) -> str:
        """Store a manifest or index, point `tag` at it where one is given, and return its digest."""
        digest = digest_of(content)
        body = Body(io.BytesIO(content), 0, len(content))
        url = "{}/manifests/{}".format(self._base, tag or digest)
        self._http.ask("PUT", url, (201,), {"Content-Type": media_type}, body)
        return digest
