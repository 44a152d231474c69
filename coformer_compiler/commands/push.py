"""`coformerc push`: a finished build into an OCI registry or a layout folder, signed."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from coformer_compiler.artifact import file_digest
from coformer_compiler.commands.build_folder import BuildFolders, open_builds
from coformer_runtime.alternatives import INDEX_NAME, index_digest, load_index, open_all
from coformer_runtime.errors import CheckFailed, CoformerError
from coformer_runtime.manifest import MANIFEST_NAME, FileSpec
from coformer_runtime.shipping.contents import files_in
from coformer_runtime.shipping.dsse import Envelope, envelope_json, load_private_key, sign
from coformer_runtime.shipping.http import HttpOptions
from coformer_runtime.shipping.manifests import (
    ALTERNATIVES_CONFIG,
    BUNDLE,
    BUNDLE_CONFIG,
    BUNDLE_FILE,
    EMPTY,
    EMPTY_CONTENT,
    ENVELOPE,
    IMAGE_INDEX,
    IMAGE_MANIFEST,
    STATEMENT,
    Image,
    image_json,
    index_json,
)
from coformer_runtime.shipping.reference import parse_reference
from coformer_runtime.shipping.statement import Member, Release, facts_of, parse_statement, statement_json, version_now
from coformer_runtime.shipping.store import Descriptor, Store, digest_of
from coformer_runtime.shipping.stores import open_store

DAYS = 365


@dataclass(frozen=True)
class PushOptions:
    """What a release says of itself.

    Attributes:
        name: what is released; the build folder's name where left out.
        version: the UTC time as a number, 20260131120000, where left out.
        days: until it expires.
        key: file of the private key; None only with `unsigned`.
        unsigned: push without a signature.
        http: how to talk to a registry.
    """

    name: str | None = None
    version: int | None = None
    days: int = DAYS
    key: Path | None = None
    unsigned: bool = False
    http: HttpOptions = field(default_factory=HttpOptions)


@dataclass
class _Sent:
    """What went to the store and what was there."""

    blobs: int = 0
    sent_bytes: int = 0
    present_bytes: int = 0


def push_build(
    out: Path, text: str, options: PushOptions, say: Callable[[str], None], now: float | None = None
) -> dict[str, Any]:
    """Push a build's bundles under the reference `text`, and describe the release as JSON values.

    Blobs go first, then the manifests, the tag last: whoever pulls finds the whole release or the one before.

    Raises:
        CoformerError: no build, a damaged bundle, a bad reference, an unreadable key, or a store that refuses.
    """
    reference = parse_reference(text)
    if reference.digest:
        raise CoformerError("a digest cannot be pushed to", f"reference '{text}'", "leave the @sha256: away")
    if (options.key is None) == (not options.unsigned):
        what = "both --key and --unsigned are given" if options.key else "nothing to sign with"
        raise CoformerError(what, "coformerc push", "give --key FILE (`coformerc keygen` makes one), or --unsigned")
    if options.days < 1 or (options.version is not None and options.version < 1):
        raise CoformerError("--days and --version begin at 1", "coformerc push", "give a larger number")
    key = None if options.key is None else load_private_key(str(options.key))
    build = open_builds(out)
    parcels = _parcels(build)
    sent = _Sent()
    with open_store(reference, options.http, write=True) as store:
        images = [_push_parcel(store, parcel, sent, say) for parcel in parcels]
        release = _release(out, build, parcels, images, options, time.time() if now is None else now)
        payload = statement_json(release)
        parse_statement(payload, "coformerc push")  # what a board would refuse, such as a name with spaces
        envelope = Envelope(payload, ()) if key is None else sign(payload, key)
        statement = _push_statement(store, envelope, sent)
        devices = [(parcel.device, image) for parcel, image in zip(parcels, images, strict=True)]
        facts = {f"org.coformer.{name}": str(value) for name, value in facts_of(release).items() if name != "devices"}
        digest = store.write_manifest(index_json(devices, statement, facts), IMAGE_INDEX, reference.tag)
    return {
        "reference": str(reference),
        "pinned": str(reference._replace(digest=digest)),
        "signed_by": envelope.signatures[0].keyid if envelope.signatures else None,
        **facts_of(release),
        "sent_bytes": sent.sent_bytes,
        "present_bytes": sent.present_bytes,
    }


@dataclass(frozen=True)
class _Parcel:
    """What one device gets: its bundle, or its alternatives with their index.

    Attributes:
        device: whose.
        target: what kind of device it is.
        said: the file that says what is there; `media_type` is its own.
        media_type: see `said`.
        files: all others, and where they are.
    """

    device: str
    target: str
    said: Path
    media_type: str
    files: tuple[tuple[FileSpec, Path], ...]


def _parcels(build: BuildFolders) -> list[_Parcel]:
    """What travels, device by device; whatever is damaged or is not what the build wrote is refused."""
    bundles = [pair for each in build.builds for pair in zip(each.bundles, each.manifests, strict=True)]
    for path, _ in bundles if build.alternatives else ():
        if not path.is_dir():
            raise CheckFailed("the bundle is missing", str(path), "build again")
    parcels = [_parcel_of(folder, build) for folder in build.device_folders.values()]
    for path, wanted in bundles:
        if file_digest(path / MANIFEST_NAME) != wanted:
            what = "it is not the manifest that the build wrote"
            raise CheckFailed(what, str(path / MANIFEST_NAME), "run `coformerc validate`, or build again")
    return parcels


def _parcel_of(folder: Path, build: BuildFolders) -> _Parcel:
    manifest = open_all(str(folder))[0].manifest
    files = tuple((spec, folder.joinpath(*spec.path.split("/"))) for spec in files_in(str(folder)))
    if not build.alternatives:
        return _Parcel(manifest.device, manifest.target, folder / MANIFEST_NAME, BUNDLE_CONFIG, files)
    if index_digest(load_index(str(folder))) != build.build:
        what = "it is not the index that the build wrote"
        raise CheckFailed(what, str(folder / INDEX_NAME), "run `coformerc validate`, or build again")
    return _Parcel(manifest.device, manifest.target, folder / INDEX_NAME, ALTERNATIVES_CONFIG, files)


def _push_parcel(store: Store, parcel: _Parcel, sent: _Sent, say: Callable[[str], None]) -> Descriptor:
    """Push one device's files and its image manifest; return the latter's descriptor."""
    config = Descriptor(parcel.media_type, "sha256:" + file_digest(parcel.said), parcel.said.stat().st_size)
    layers = [
        (Descriptor(BUNDLE_FILE, "sha256:" + spec.sha256, spec.size_bytes, spec.path), path)
        for spec, path in parcel.files
    ]
    before = sent.sent_bytes
    for descriptor, path in [(config, parcel.said), *layers]:
        with path.open("rb") as content:
            _push_blob(store, descriptor, content, sent)
    image = image_json(Image(BUNDLE, config, tuple(descriptor for descriptor, _ in layers)))
    digest = store.write_manifest(image, IMAGE_MANIFEST, None)
    say(f"{parcel.device}: {len(layers) + 1} files, {sent.sent_bytes - before:,} bytes sent")
    return Descriptor(IMAGE_MANIFEST, digest, len(image))


def _push_blob(store: Store, descriptor: Descriptor, content: IO[bytes], sent: _Sent) -> None:
    if store.has_blob(descriptor.digest):
        sent.present_bytes += descriptor.size_bytes
        return
    store.write_blob(descriptor, content)
    sent.blobs += 1
    sent.sent_bytes += descriptor.size_bytes


def _push_statement(store: Store, envelope: Envelope, sent: _Sent) -> Descriptor:
    content = envelope_json(envelope)
    layer = Descriptor(ENVELOPE, digest_of(content), len(content))
    _push_blob(store, layer, io.BytesIO(content), sent)
    _push_blob(store, EMPTY, io.BytesIO(EMPTY_CONTENT), sent)
    image = image_json(Image(STATEMENT, EMPTY, (layer,)))
    return Descriptor(IMAGE_MANIFEST, store.write_manifest(image, IMAGE_MANIFEST, None), len(image))


def _release(
    out: Path,
    build: BuildFolders,
    parcels: Sequence[_Parcel],
    images: Sequence[Descriptor],
    options: PushOptions,
    now: float,
) -> Release:
    members = tuple(
        Member(
            parcel.device,
            parcel.target,
            image.digest.removeprefix("sha256:"),
            sum(spec.size_bytes for spec, _ in parcel.files),
        )
        for parcel, image in zip(parcels, images, strict=True)
    )
    version = version_now(now) if options.version is None else options.version
    created = int(now)
    return Release(
        options.name or out.resolve().name, version, created, created + options.days * 86400, build.build, members
    )


def pushed_text(found: dict[str, Any]) -> str:
    """What was pushed."""
    signed = f"signed by {found['signed_by'][:12]}..." if found["signed_by"] else "not signed"
    devices = ", ".join(f"{device} ({target})" for device, target in found["devices"].items())
    return (
        f"{found['pinned']}\n{found['name']} {found['version']}, {signed}, expires {found['expires']}\n{devices}\n"
        f"{found['sent_bytes']:,} bytes sent, {found['present_bytes']:,} were there"
    )
