"""A bundle on disk: opened only after every file of it was hashed."""

import hashlib
import os
from typing import List, NamedTuple, Optional

from .errors import CoformerError
from .manifest import MANIFEST_NAME, Manifest, load_manifest

_CHUNK_BYTES = 1 << 20
COPY_AGAIN = "copy the bundle to the device again, or build it again"


class Bundle(NamedTuple):
    """A verified bundle: its directory and its manifest."""

    directory: str
    manifest: Manifest

    def file(self, path: str) -> str:
        """Return the file system path of a file that the manifest names."""
        return os.path.join(self.directory, *path.split("/"))


def open_bundle(bundle_dir: str, target: Optional[str] = None) -> Bundle:
    """Load the manifest, verify every file, and check that the bundle is for `target` (None: any).

    Raises:
        CoformerError: unreadable or contradictory manifest, a file that differs, or another target's bundle.
    """
    directory = str(bundle_dir)
    manifest = load_manifest(directory)
    if target is not None and manifest.target != target:
        raise CoformerError(
            "the bundle is for target '{}', not '{}'".format(manifest.target, target),
            directory,
            "ship the bundle that was built for '{}', or leave --target away".format(target),
        )
    verify_files(directory, manifest)
    return Bundle(directory, manifest)


def verify_files(bundle_dir: str, manifest: Manifest) -> None:
    """Compare every file with the manifest; raise a CoformerError that names the first one that differs.

    Links and files that the manifest does not name are refused as well.
    """
    listed = {spec.path: spec for spec in manifest.files}
    present = _present_files(str(bundle_dir))
    for path in present:
        if path not in listed and path != MANIFEST_NAME:
            raise CoformerError(
                "'{}' is not listed in the manifest".format(path),
                str(bundle_dir),
                "remove it, or " + COPY_AGAIN,
            )
    for spec in manifest.files:
        if spec.path not in present:
            raise CoformerError("'{}' is missing".format(spec.path), str(bundle_dir), COPY_AGAIN)
        path = os.path.join(str(bundle_dir), *spec.path.split("/"))
        size = os.path.getsize(path)
        if size != spec.size_bytes:
            raise CoformerError(
                "'{}' has {:,} bytes, the manifest says {:,}".format(spec.path, size, spec.size_bytes),
                str(bundle_dir),
                COPY_AGAIN,
            )
        digest = file_sha256(path)
        if digest != spec.sha256:
            raise CoformerError(
                "'{}' has the SHA-256 {}..., the manifest says {}...".format(spec.path, digest[:12], spec.sha256[:12]),
                str(bundle_dir),
                COPY_AGAIN,
            )


def file_sha256(path: str) -> str:
    """Return the SHA-256 of a file's content as 64 hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for chunk in iter(lambda: stream.read(_CHUNK_BYTES), b""):
            digest.update(chunk)
    return digest.hexdigest()


def _present_files(bundle_dir: str) -> List[str]:
    """Paths of all files below `bundle_dir`, relative with forward slashes."""
    found: List[str] = []
    for folder, folders, names in os.walk(bundle_dir):
        for name in folders + names:
            path = os.path.join(folder, name)
            relative = os.path.relpath(path, bundle_dir).replace(os.sep, "/")
            if os.path.islink(path) or not (os.path.isfile(path) or os.path.isdir(path)):
                raise CoformerError(
                    "'{}' is a link or a special file".format(relative),
                    bundle_dir,
                    "put a plain file in its place: " + COPY_AGAIN,
                )
            if name in names:
                found.append(relative)
    return found
