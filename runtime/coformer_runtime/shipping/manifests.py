"""A release as OCI documents: an index, one image manifest per device's bundle, one for the signed statement.

    index ─┬─ device 'attic' ─┬─ config: its manifest.json
           │                  └─ one layer per file, called by its path in the bundle
           │                     (of alternatives their index, and the files of all their bundles)
           ├─ device 'hall'  ── …
           └─ statement      ─── one layer: a DSSE envelope, whose subjects are the devices' image manifests

Nothing of the index is believed: it says where the statement is, and the statement says the rest.
"""

import re
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

from ..errors import CoformerError
from ..manifest_fields import Fields, parse_json
from .store import Descriptor, canonical_json

IMAGE_INDEX = "application/vnd.oci.image.index.v1+json"
IMAGE_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
RELEASE = "application/vnd.coformer.release.v1"
BUNDLE = "application/vnd.coformer.bundle.v1"
BUNDLE_CONFIG = "application/vnd.coformer.manifest.v1+json"
ALTERNATIVES_CONFIG = "application/vnd.coformer.alternatives.v1+json"
BUNDLE_FILE = "application/vnd.coformer.file.v1"
STATEMENT = "application/vnd.coformer.statement.v1"
ENVELOPE = "application/vnd.dsse.envelope.v1+json"
EMPTY = Descriptor(
    "application/vnd.oci.empty.v1+json",
    "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
    2,
)
EMPTY_CONTENT = b"{}"
TITLE, DEVICE = "org.opencontainers.image.title", "org.coformer.device"
PUSH_AGAIN = "push the release again with `coformerc push`"

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Image(NamedTuple):
    """One image manifest: `config` is what says what is there, `layers` its files; or EMPTY and the envelope."""

    artifact_type: str
    config: Descriptor
    layers: Tuple[Descriptor, ...]


def image_json(image: Image) -> bytes:
    """Return the image manifest's bytes; they depend on nothing but the content."""
    return canonical_json(
        {
            "schemaVersion": 2,
            "mediaType": IMAGE_MANIFEST,
            "artifactType": image.artifact_type,
            "config": _descriptor_json(image.config),
            "layers": [_descriptor_json(layer) for layer in image.layers],
        }
    )


def index_json(devices: Sequence[Tuple[str, Descriptor]], statement: Descriptor, facts: Dict[str, str]) -> bytes:
    """Return the index's bytes: a descriptor per device, the statement's, and `facts` for whoever looks at it."""
    entries: List[Dict[str, Any]] = []
    for device, descriptor in devices:
        entry = dict(_descriptor_json(descriptor), artifactType=BUNDLE, annotations={DEVICE: device})
        entries.append(entry)
    entries.append(dict(_descriptor_json(statement), artifactType=STATEMENT))
    return canonical_json(
        {
            "schemaVersion": 2,
            "mediaType": IMAGE_INDEX,
            "artifactType": RELEASE,
            "manifests": entries,
            "annotations": facts,
        }
    )


def _descriptor_json(descriptor: Descriptor) -> Dict[str, Any]:
    found: Dict[str, Any] = {
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest,
        "size": descriptor.size_bytes,
    }
    if descriptor.title:
        found["annotations"] = {TITLE: descriptor.title}
    return found


def parse_image(content: bytes, artifact_type: str, where: str) -> Image:
    """Return an image manifest of ours; raise a CoformerError for anything else."""
    fields = _document(content, IMAGE_MANIFEST, where)
    found = fields.text("artifactType")
    if found != artifact_type:
        raise CoformerError("its artifact type is '{}', not '{}'".format(found, artifact_type), where, PUSH_AGAIN)
    layers = tuple(_parse_descriptor(layer) for layer in fields.sections("layers"))
    return Image(found, _parse_descriptor(fields.section("config")), layers)


def parse_index(content: bytes, where: str) -> str:
    """Return the digest of the statement's image manifest; raise a CoformerError if this is no release of ours."""
    fields = _document(content, IMAGE_INDEX, where)
    if not fields.has("artifactType") or fields.text("artifactType") != RELEASE:
        raise CoformerError("it is not a release of bundles", where, "name one that `coformerc push` wrote")
    for entry in fields.sections("manifests"):
        if entry.has("artifactType") and entry.text("artifactType") == STATEMENT:
            return _parse_descriptor(entry).digest
    raise CoformerError("it has no statement of what is in it", where, PUSH_AGAIN)


def _document(content: bytes, media_type: str, where: str) -> Fields:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise CoformerError("it is not UTF-8 text", where, PUSH_AGAIN) from None
    fields = Fields(parse_json(text, where), where, "", PUSH_AGAIN)
    found = fields.text("mediaType") if fields.has("mediaType") else "nothing"
    if found != media_type:
        raise CoformerError("it is {}, not {}".format(found, media_type), where, "name one that `coformerc push` wrote")
    return fields


def _parse_descriptor(fields: Fields) -> Descriptor:
    media_type = fields.text("mediaType")
    digest = fields.matching("digest", _DIGEST, "a digest by SHA-256")
    size_bytes = fields.integer("size", 0)
    title = ""
    if fields.has("annotations"):
        annotations = fields.section("annotations")
        title = annotations.path(TITLE) if annotations.has(TITLE) else ""
    return Descriptor(media_type, digest, size_bytes, title)
