"""The bundle's manifest: its types, its strict reader and its canonical writer.

The format is "coformer-bundle/1" of docs/architecture.md. Reading checks everything that can be checked
without the other files: keys, types, ranges, and that the parts agree. bundle.py checks the files.
"""

import json
import os
import re
from collections import OrderedDict
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from .errors import CoformerError
from .manifest_fields import Fields, parse_json
from .manifest_profiles import ProfilesSpec, profiles_from_fields, profiles_json
from .manifest_rules import DEVICE_NAME, broken_rule

FORMAT = "coformer-bundle/1"
MANIFEST_NAME = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 20
MAX_RANK = 8
REBUILD = "build the bundle again with coformerc"

_SHA256 = re.compile(r"[0-9a-f]{64}")


class EngineSpec(NamedTuple):
    """What runs the member: `file` is the graph, `recipe` says how a TensorRT plan is built from it."""

    kind: str
    version: str
    file: str
    precision: str
    recipe: Optional[str] = None


class TensorSpec(NamedTuple):
    """One tensor: `dtype` is numpy's name, `shape` includes the batch axis, which is 1."""

    name: str
    dtype: str
    shape: Tuple[int, ...]


class AnswerSpec(NamedTuple):
    """The tensor that the aggregator answers with, and the class names of its last axis (or none)."""

    name: str
    dtype: str
    shape: Tuple[int, ...]
    labels: Tuple[str, ...]


class GoldenSpec(NamedTuple):
    """Paths of the golden vectors, `(cases, *shape[1:])`; `tolerance` bounds |a - b| / (1 + |b|)."""

    input: str
    output: str
    tolerance: float
    answer: Optional[str] = None


class AggregatorSpec(NamedTuple):
    """The graph that answers for one subset: `members` are ascending member indices."""

    members: Tuple[int, ...]
    file: str
    expected_accuracy: float


class SourceSpec(NamedTuple):
    """How a member reads a text that it then answers with another one.

    Attributes:
        graph: runs once for a text; the step graph takes what it gives.
        length: how many tokens it takes.
        padding: the token that is none.
        start: the token that answers begin with.
    """

    graph: str
    length: int
    padding: int
    start: int


class GenerationSpec(NamedTuple):
    """How a member that continues texts, or answers them, is run token by token.

    Attributes:
        step: graph for one token.
        prefill: graph for `chunk` tokens of a prompt, the last of them padding where there are fewer; None for members
            that answer texts, whose prompt goes to the graph of `source`.
        chunk: see `prefill`.
        context: how many tokens the caches hold.
        padding: the token that is none.
        end: the token that ends a text, or None.
        source: of members that answer texts.
    """

    step: str
    prefill: Optional[str]
    chunk: Optional[int]
    context: int
    padding: int
    end: Optional[int] = None
    source: Optional[SourceSpec] = None

    @property
    def graphs(self) -> Tuple[str, ...]:
        """The files of all graphs."""
        source = None if self.source is None else self.source.graph
        return tuple(path for path in (self.step, self.prefill, source) if path is not None)

    @property
    def longest_prompt(self) -> int:
        """How many tokens a prompt may have."""
        return self.context if self.source is None else self.source.length


class FileSpec(NamedTuple):
    """One file of the bundle: `path` is relative with forward slashes, `sha256` is 64 hex digits."""

    path: str
    sha256: str
    size_bytes: int


class Manifest(NamedTuple):
    """Everything that a board knows about its bundle.

    Attributes:
        build: SHA-256 that all members of one build share; only equal builds talk to each other.
        policy: SHA-256 of the policy that the members were cut by.
        device: this bundle's device; `members[member]` is the same name.
        target: name of the target that the engine was made for.
        member: this device's index into `members`.
        members: the names of all devices, in aggregation order.
        central: the device that aggregates.
        standby: the devices that can do so in its place; they have the aggregators as well.
        input, output: what the member takes and gives, as they travel.
        answer: what the aggregator gives.
        aggregators: empty unless this device aggregates, or can.
        wire_bytes: size of the output tensor as it travels.
        files: every file except manifest.json, sorted by path.
        generation: how tokens are generated, None for members that continue no texts.
        profiles: graphs for other lengths and batch sizes, None where there is the one of `input` alone.
        vocabulary: of inputs that are token numbers, how many there are; of token types, which stand in a second row,
            likewise. Empty for other inputs.
    """

    build: str
    policy: str
    device: str
    target: str
    member: int
    members: Tuple[str, ...]
    central: str
    engine: EngineSpec
    input: TensorSpec
    output: TensorSpec
    answer: AnswerSpec
    golden: GoldenSpec
    aggregators: Tuple[AggregatorSpec, ...]
    wire_bytes: int
    files: Tuple[FileSpec, ...]
    standby: Tuple[str, ...] = ()
    generation: Optional[GenerationSpec] = None
    profiles: Optional[ProfilesSpec] = None
    vocabulary: Tuple[int, ...] = ()

    @property
    def is_central(self) -> bool:
        """Whether this bundle's device is the one that aggregates."""
        return self.device == self.central

    @property
    def can_aggregate(self) -> bool:
        """Whether this bundle's device is the central one or may stand in for it."""
        return self.is_central or self.device in self.standby


def load_manifest(bundle_dir: str) -> Manifest:
    """Read and check `bundle_dir`/manifest.json; raise a CoformerError that names the key at fault."""
    where = os.path.join(str(bundle_dir), MANIFEST_NAME)
    try:
        with open(where, "rb") as stream:
            raw = stream.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise CoformerError(
            "the manifest cannot be read ({})".format(error.strerror),
            where,
            "name the directory of one device's bundle",
        ) from error
    if len(raw) > MAX_MANIFEST_BYTES:
        raise CoformerError("the manifest is larger than {:,} bytes".format(MAX_MANIFEST_BYTES), where, REBUILD)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise CoformerError("the manifest is not UTF-8 text", where, REBUILD) from None
    return parse_manifest(text, where)


def parse_manifest(text: str, where: str) -> Manifest:
    """Return the manifest that `text` holds; `where` names it in errors."""
    top = Fields(parse_json(text, where), where, "", REBUILD)
    found = top.text("format")
    if found != FORMAT:
        raise CoformerError(
            "the format is '{}', this runtime reads '{}'".format(found, FORMAT),
            where,
            "install the coformer-runtime that fits, or build the bundle again",
        )
    manifest = Manifest(
        build=top.matching("build", _SHA256, "a SHA-256 in lower-case hex"),
        policy=top.matching("policy", _SHA256, "a SHA-256 in lower-case hex"),
        device=top.matching("device", DEVICE_NAME, "a device name"),
        target=top.text("target"),
        member=top.integer("member", 0),
        members=tuple(top.texts("members")),
        central=top.matching("central", DEVICE_NAME, "a device name"),
        engine=_engine(top.section("engine")),
        input=_tensor(top.section("input")),
        output=_tensor(top.section("output")),
        answer=_answer(top.section("answer")),
        golden=_golden(top.section("golden")),
        aggregators=tuple(_aggregator(fields) for fields in top.sections("aggregators")),
        wire_bytes=top.integer("wire_bytes", 1),
        files=_files(top.section("files")),
        standby=tuple(top.texts("standby")) if top.has("standby") else (),
        generation=_generation(top.section("generation")) if top.has("generation") else None,
        profiles=profiles_from_fields(top.section("profiles")) if top.has("profiles") else None,
        vocabulary=tuple(top.integers("vocabulary")) if top.has("vocabulary") else (),
    )
    top.finish()
    check_manifest(manifest, where)
    return manifest


def _engine(fields: Fields) -> EngineSpec:
    spec = EngineSpec(
        fields.text("kind"),
        fields.text("version"),
        fields.path("file"),
        fields.text("precision"),
        fields.path("recipe") if fields.has("recipe") else None,
    )
    fields.finish()
    return spec


def _tensor(fields: Fields) -> TensorSpec:
    spec = TensorSpec(fields.text("name"), fields.dtype("dtype"), fields.shape("shape", MAX_RANK))
    fields.finish()
    return spec


def _answer(fields: Fields) -> AnswerSpec:
    spec = AnswerSpec(
        fields.text("name"),
        fields.dtype("dtype"),
        fields.shape("shape", MAX_RANK),
        tuple(fields.texts("labels")),
    )
    fields.finish()
    return spec


def _golden(fields: Fields) -> GoldenSpec:
    spec = GoldenSpec(
        fields.path("input"),
        fields.path("output"),
        fields.number("tolerance", 0.0, 1.0),
        fields.path("answer") if fields.has("answer") else None,
    )
    fields.finish()
    return spec


def _aggregator(fields: Fields) -> AggregatorSpec:
    spec = AggregatorSpec(
        tuple(fields.integers("members")), fields.path("file"), fields.number("expected_accuracy", 0.0, 1.0)
    )
    fields.finish()
    return spec


def _generation(fields: Fields) -> GenerationSpec:
    spec = GenerationSpec(
        fields.path("step"),
        fields.path("prefill") if fields.has("prefill") else None,
        fields.integer("chunk", 2) if fields.has("chunk") else None,
        fields.integer("context", 2),
        fields.integer("padding", 0),
        fields.integer("end", 0) if fields.has("end") else None,
        _source(fields.section("source")) if fields.has("source") else None,
    )
    fields.finish()
    return spec


def _source(fields: Fields) -> SourceSpec:
    spec = SourceSpec(
        fields.path("graph"), fields.integer("length", 2), fields.integer("padding", 0), fields.integer("start", 0)
    )
    fields.finish()
    return spec


def _files(fields: Fields) -> Tuple[FileSpec, ...]:
    specs: List[FileSpec] = []
    for path in sorted(fields.keys()):
        entry = fields.entry(path)
        specs.append(
            FileSpec(
                path,
                entry.matching("sha256", _SHA256, "a SHA-256 in lower-case hex"),
                entry.integer("bytes", 0),
            )
        )
        entry.finish()
    return tuple(specs)


def check_manifest(manifest: Manifest, where: str) -> None:
    """Raise a CoformerError where the parts of a manifest contradict each other; the writer calls it too."""
    broken = broken_rule(manifest)
    if broken is not None:
        raise CoformerError(broken, where, REBUILD)


def manifest_json(manifest: Manifest) -> str:
    """Return the checked manifest as canonical text: sorted keys, two spaces, ASCII, a final newline."""
    check_manifest(manifest, "manifest of '{}'".format(manifest.device))
    return (
        json.dumps(
            _plain(manifest),
            sort_keys=True,
            indent=2,
            ensure_ascii=True,
            allow_nan=False,
            separators=(",", ": "),
        )
        + "\n"
    )


def _plain(manifest: Manifest) -> Dict[str, Any]:
    document: Dict[str, Any] = OrderedDict(manifest._asdict())
    document["format"] = FORMAT
    for key in ("standby", "vocabulary"):
        if not document[key]:
            del document[key]
    if manifest.generation is None:
        del document["generation"]
    if manifest.profiles is None:
        del document["profiles"]
    else:
        document["profiles"] = profiles_json(manifest.profiles)
    for key in ("engine", "input", "output", "answer", "golden") + (("generation",) if manifest.generation else ()):
        document[key] = {name: value for name, value in document[key]._asdict().items() if value is not None}
    if manifest.generation is not None and manifest.generation.source is not None:
        document["generation"]["source"] = dict(manifest.generation.source._asdict())
    document["aggregators"] = [dict(spec._asdict()) for spec in manifest.aggregators]
    document["files"] = {spec.path: {"sha256": spec.sha256, "bytes": spec.size_bytes} for spec in manifest.files}
    return document
