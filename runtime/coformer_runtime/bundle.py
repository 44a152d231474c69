"""A bundle on disk: opened only after every file of it was hashed."""

import hashlib
import os
from typing import List, NamedTuple, Optional

from .errors import CoformerError
from .manifest import MANIFEST_NAME, Manifest, load_manifest

_CHUNK_BYTES = 1 << 20
ENGINES = ".coformer-engines"
WEIGHTS_SUFFIX = ".data"
"""A graph's weights may lie beside it, under its name and this; those of profiles are the member's."""
COPY_AGAIN = "copy the bundle to the device again, or build it again"


class Bundle(NamedTuple):
    """A verified bundle.

    Attributes:
        directory: where it is.
        manifest: what it says.
        engines_dir: where plans are kept that this machine builds from its graphs; never inside the bundle.
    """

    directory: str
    manifest: Manifest
    engines_dir: str = ""

    def file(self, path: str) -> str:
        """Return the file system path of a file that the manifest names."""
        return os.path.join(self.directory, *path.split("/"))

    def sha256(self, path: str) -> str:
        """Return the SHA-256 of a file that the manifest names."""
        return next(spec.sha256 for spec in self.manifest.files if spec.path == path)

    def graph_sha256(self, path: str) -> str:
        """Return the SHA-256 of a graph together with that of the weights beside it, where it has such.

        Graphs of one shape differ in nothing else, and a plan is made of both.
        """
        profiles, generation, owner = self.manifest.profiles, self.manifest.generation, path
        if profiles is not None and path in [spec.file for spec in profiles.graphs]:
            owner = self.manifest.engine.file
        elif generation is not None and path in generation.graphs:
            owner = generation.step
        weights = owner + WEIGHTS_SUFFIX
        if all(spec.path != weights for spec in self.manifest.files):
            return self.sha256(path)
        both = "{} {}".format(self.sha256(path), self.sha256(weights))
        return hashlib.sha256(both.encode("ascii")).hexdigest()


def open_bundle(bundle_dir: str, target: Optional[str] = None, engines_dir: Optional[str] = None) -> Bundle:
    """Load the manifest, verify every file, and check that the bundle is for `target` (None: any).

    Args:
        bundle_dir: the bundle.
        target: the target that it must be for.
        engines_dir: where plans are kept; None: in a directory beside the bundle.

    Raises:
        CoformerError: unreadable or contradictory manifest, a file that differs, or another target's bundle; or
            plans would be kept in the bundle.
    """
    directory = str(bundle_dir)
    engines_dir = (
        os.path.join(os.path.dirname(os.path.abspath(directory)), ENGINES) if engines_dir is None else engines_dir
    )
    inside = os.path.commonpath([os.path.abspath(directory), os.path.abspath(engines_dir)])
    if inside == os.path.abspath(directory):
        raise CoformerError(
            "plans would be kept inside the bundle, whose files are all listed",
            "--cache {}".format(engines_dir),
            "name a directory outside of it",
        )
    if os.path.islink(directory):  # it may point at another release before the engine is open
        directory = os.path.realpath(directory)
    manifest = load_manifest(directory)
    if target is not None and manifest.target != target:
        raise CoformerError(
            "the bundle is for target '{}', not '{}'".format(manifest.target, target),
            directory,
            "ship the bundle that was built for '{}', or leave --target away".format(target),
        )
    verify_files(directory, manifest)
    return Bundle(directory, manifest, engines_dir)


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
