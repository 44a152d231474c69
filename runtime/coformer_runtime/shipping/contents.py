"""What an image puts onto a board: a bundle and its manifest, or the bundles of alternatives and their index."""

import os
from typing import NamedTuple, Tuple

from ..alternatives import INDEX_NAME, has_index, index_digest, load_index, parse_index
from ..bundle import file_sha256
from ..errors import CheckFailed, CoformerError
from ..manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, FileSpec, load_manifest, parse_manifest
from .manifests import ALTERNATIVES_CONFIG, PUSH_AGAIN, Image
from .statement import Member, Release
from .store import Store, read_small_blob


class Contents(NamedTuple):
    """A file that says what is there, `name` and its bytes, and all other files."""

    name: str
    said: bytes
    files: Tuple[FileSpec, ...]


def read_contents(store: Store, image: Image, member: Member, release: Release, where: str) -> Contents:
    """Return what an image that was signed holds.

    Raises:
        CheckFailed: it is not what the statement says, or its layers are not the files that it names.
        CoformerError: unreadable.
    """
    alternatives = image.config.media_type == ALTERNATIVES_CONFIG
    name = INDEX_NAME if alternatives else MANIFEST_NAME
    if image.config.size_bytes > MAX_MANIFEST_BYTES:
        raise CoformerError("its {} has {:,} bytes".format(name, image.config.size_bytes), where, PUSH_AGAIN)
    said = read_small_blob(store, image.config)
    files = tuple(FileSpec(layer.title, layer.digest[7:], layer.size_bytes) for layer in image.layers)
    text, place = said.decode("utf-8", "replace"), "{}, {}".format(where, name)
    if alternatives:
        _check_index(text, files, member, release, place)
    else:
        _check_manifest(text, files, member, release, place)
    return Contents(name, said, tuple(sorted(files)))


def files_in(directory: str) -> Tuple[FileSpec, ...]:
    """Return the files that a release on this board should have, by their paths in it."""
    if not has_index(directory):
        return load_manifest(directory).files
    found = []
    for alternative in load_index(directory).alternatives:
        folder = os.path.join(directory, alternative.name)
        if os.path.isdir(folder):
            manifest = os.path.join(folder, MANIFEST_NAME)
            path = "{}/{}".format(alternative.name, MANIFEST_NAME)
            found.append(FileSpec(path, file_sha256(manifest), os.path.getsize(manifest)))
            for spec in load_manifest(folder).files:
                found.append(spec._replace(path="{}/{}".format(alternative.name, spec.path)))
    return tuple(found)


def _check_manifest(text: str, files: Tuple[FileSpec, ...], member: Member, release: Release, where: str) -> None:
    manifest = parse_manifest(text, where)
    _check_said(
        (manifest.device, manifest.target, manifest.build), (member.device, member.target, release.build), where
    )
    if {spec.path: spec for spec in files} != {spec.path: spec for spec in manifest.files}:
        raise CheckFailed("its layers are not the files of its manifest.json", where, PUSH_AGAIN)


def _check_index(text: str, files: Tuple[FileSpec, ...], member: Member, release: Release, where: str) -> None:
    """Whether the manifests are those of the index; they say what else is there, once they have arrived."""
    index = parse_index(text, where)
    _check_said((index_digest(index),), (release.build,), where)
    wanted = {
        "{}/{}".format(alternative.name, MANIFEST_NAME): digest
        for alternative in index.alternatives
        for device, digest in alternative.manifests
        if device == member.device
    }
    manifests = {spec.path: spec.sha256 for spec in files if spec.path.count("/") == 1 and spec.path in wanted}
    folders = {path.split("/")[0] for path in wanted}
    if not wanted or manifests != wanted or {spec.path.split("/")[0] for spec in files} != folders:
        raise CheckFailed("its layers are not the bundles of its alternatives.json", where, PUSH_AGAIN)


def _check_said(said: Tuple[str, ...], signed: Tuple[str, ...], where: str) -> None:
    if said != signed:
        raise CheckFailed("the bundle is {}, the statement says {}".format(said, signed), where, PUSH_AGAIN)
