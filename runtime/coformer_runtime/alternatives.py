"""Alternatives: several builds of one model for the same devices, for unlike bandwidths; what a board holds of them.

A device's folder then holds one bundle per alternative that it takes part in, in a folder of the alternative's name,
and beside them the index `alternatives.json` (format "coformer-alternatives/1" of docs/architecture.md), the same on
every device. A folder that was taken away is an alternative that this device does not hold; the others go on.
"""

import hashlib
import json
import os
import re
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from .bundle import COPY_AGAIN, ENGINES, Bundle, file_sha256, open_bundle
from .errors import CoformerError
from .manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES
from .manifest_fields import Fields, parse_json
from .manifest_rules import DEVICE_NAME

FORMAT = "coformer-alternatives/1"
INDEX_NAME = "alternatives.json"
REBUILD = "build again with coformerc"

_SHA256 = re.compile(r"[0-9a-f]{64}")


class Alternative(NamedTuple):
    """One build of several.

    Attributes:
        name: of its folders, after the lowest bandwidth that it was picked for.
        build: its build digest.
        manifests: device → SHA-256 of its bundle's manifest.json, for the devices that take part; sorted by device.
        expected_accuracy: of all its members together, 0 to 1.
        predicted_ms: latency of a request at each of the index' bandwidths.
    """

    name: str
    build: str
    manifests: Tuple[Tuple[str, str], ...]
    expected_accuracy: float
    predicted_ms: Tuple[float, ...]


class Range(NamedTuple):
    """Rates in Mbit/s from `from_mbps` up to `to_mbps` (None: any), and the name of the alternative for them."""

    from_mbps: float
    to_mbps: Optional[float]
    alternative: str


class Index(NamedTuple):
    """All alternatives.

    Attributes:
        bandwidths_mbps: what they were picked for, ascending.
        estimated: whether predicted latencies rest on less than measurements.
        start: name of the one to begin with, before any rate was measured.
        alternatives: in the order of their bandwidths.
        ranges: ascending from 0, without a gap.
    """

    bandwidths_mbps: Tuple[float, ...]
    estimated: bool
    start: str
    alternatives: Tuple[Alternative, ...]
    ranges: Tuple[Range, ...]


class Held(NamedTuple):
    """What one device holds: the index (`listing`), and the verified bundles by alternative, in the index' order."""

    directory: str
    listing: Index
    bundles: Dict[str, Bundle]

    @property
    def device(self) -> str:
        """The device that the bundles are for."""
        return next(iter(self.bundles.values())).manifest.device


def has_index(directory: str) -> bool:
    """Whether this is a folder of alternatives, and no bundle."""
    return os.path.isfile(os.path.join(str(directory), INDEX_NAME))


def open_held(directory: str, target: Optional[str] = None, engines_dir: Optional[str] = None) -> Held:
    """Open the alternatives that a device's folder holds; arguments and errors as of `open_bundle`.

    Raises:
        CoformerError: the index is damaged, a bundle is not the one that it names, or there is none at all.
    """
    directory = str(directory)
    if engines_dir is None:
        engines_dir = os.path.join(os.path.dirname(os.path.abspath(directory)), ENGINES)
    if os.path.islink(directory):  # it may point at another release before all are open
        directory = os.path.realpath(directory)
    index = load_index(directory)
    names = [alternative.name for alternative in index.alternatives]
    for found in sorted(os.listdir(directory)):
        if found not in names and found != INDEX_NAME:
            raise CoformerError("'{}' is not named in {}".format(found, INDEX_NAME), directory, COPY_AGAIN)
    bundles = {}
    for alternative in index.alternatives:
        folder = os.path.join(directory, alternative.name)
        if not os.path.lexists(folder):
            continue
        bundle = open_bundle(folder, target, engines_dir)
        _check_bundle(bundle, alternative)
        bundles[alternative.name] = bundle
    if not bundles:
        raise CoformerError("it holds none of the alternatives {}".format(", ".join(names)), directory, COPY_AGAIN)
    devices = sorted({bundle.manifest.device for bundle in bundles.values()})
    if len(devices) > 1:
        raise CoformerError("its bundles are for the devices {}".format(", ".join(devices)), directory, COPY_AGAIN)
    return Held(directory, index, bundles)


def open_all(directory: str, target: Optional[str] = None, engines_dir: Optional[str] = None) -> List[Bundle]:
    """Open a bundle, or all those of a folder of alternatives; arguments and errors as of `open_bundle`."""
    if has_index(directory):
        return list(open_held(directory, target, engines_dir).bundles.values())
    return [open_bundle(directory, target, engines_dir)]


def _check_bundle(bundle: Bundle, alternative: Alternative) -> None:
    device = bundle.manifest.device
    wanted = dict(alternative.manifests).get(device)
    if wanted is None or file_sha256(bundle.file(MANIFEST_NAME)) != wanted:
        raise CoformerError(
            "it is not the bundle of '{}' that {} names for alternative '{}'".format(
                device, INDEX_NAME, alternative.name
            ),
            bundle.directory,
            COPY_AGAIN,
        )


def load_index(directory: str) -> Index:
    """Read and check `directory`/alternatives.json; raise a CoformerError that names the key at fault."""
    where = os.path.join(str(directory), INDEX_NAME)
    try:
        with open(where, "rb") as stream:
            raw = stream.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise CoformerError("it cannot be read ({})".format(error.strerror), where, COPY_AGAIN) from error
    if len(raw) > MAX_MANIFEST_BYTES:
        raise CoformerError("it is larger than {:,} bytes".format(MAX_MANIFEST_BYTES), where, REBUILD)
    try:
        return parse_index(raw.decode("utf-8"), where)
    except UnicodeDecodeError:
        raise CoformerError("it is not UTF-8 text", where, COPY_AGAIN) from None


def parse_index(text: str, where: str) -> Index:
    """Return the index that `text` holds; `where` names it in errors."""
    top = Fields(parse_json(text, where), where, "", REBUILD)
    found = top.text("format")
    if found != FORMAT:
        raise CoformerError(
            "the format is '{}', this runtime reads '{}'".format(found, FORMAT),
            where,
            "install the coformer-runtime that fits, or build again",
        )
    index = Index(
        tuple(top.numbers("bandwidths_mbps", 0.0, 1e9)),
        top.boolean("estimated"),
        top.text("start"),
        tuple(_alternative(fields) for fields in top.sections("alternatives")),
        tuple(_range(fields) for fields in top.sections("ranges")),
    )
    top.finish()
    broken = broken_rule(index)
    if broken is not None:
        raise CoformerError(broken, where, REBUILD)
    return index


def _alternative(fields: Fields) -> Alternative:
    manifests = fields.section("manifests")
    found = Alternative(
        fields.matching("name", DEVICE_NAME, "a folder's name"),
        fields.matching("build", _SHA256, "a SHA-256 in lower-case hex"),
        tuple(
            (device, manifests.matching(device, _SHA256, "a SHA-256 in lower-case hex"))
            for device in sorted(manifests.keys())
        ),
        fields.number("expected_accuracy", 0.0, 1.0),
        tuple(fields.numbers("predicted_ms", 0.0, 1e12)),
    )
    fields.finish()
    return found


def _range(fields: Fields) -> Range:
    found = Range(
        fields.number("from_mbps", 0.0, 1e9),
        fields.number("to_mbps", 0.0, 1e9) if fields.has("to_mbps") else None,
        fields.text("alternative"),
    )
    fields.finish()
    return found


def broken_rule(index: Index) -> Optional[str]:
    """Return what is wrong with an index in words, or None."""
    names = [alternative.name for alternative in index.alternatives]
    builds = [alternative.build for alternative in index.alternatives]
    if not names or len(set(names)) < len(names) or len(set(builds)) < len(builds):
        return "'alternatives' names none, or one twice"
    if list(index.bandwidths_mbps) != sorted(set(index.bandwidths_mbps)) or not index.bandwidths_mbps:
        return "'bandwidths_mbps' is not ascending"
    for alternative in index.alternatives:
        if not alternative.manifests:
            return "alternative '{}' has no devices".format(alternative.name)
        if len(alternative.predicted_ms) != len(index.bandwidths_mbps):
            return "alternative '{}' has {} latencies for {} bandwidths".format(
                alternative.name, len(alternative.predicted_ms), len(index.bandwidths_mbps)
            )
    named = [index.start] + [each.alternative for each in index.ranges]
    unknown = [name for name in named if name not in names]
    if unknown:
        return "'{}' is no alternative".format(unknown[0])
    edges = [each.from_mbps for each in index.ranges] + [None]
    ends = [0.0] + [each.to_mbps for each in index.ranges]
    if (
        not index.ranges
        or edges != ends
        or any(each.to_mbps is not None and each.to_mbps <= each.from_mbps for each in index.ranges)
    ):
        return "'ranges' do not go on from 0 without a gap"
    return None


def index_json(index: Index) -> str:
    """Return the checked index as canonical text: sorted keys, two spaces, ASCII, a final newline."""
    broken = broken_rule(index)
    if broken is not None:
        raise CoformerError(broken, INDEX_NAME, REBUILD)
    document: Dict[str, Any] = dict(index._asdict(), format=FORMAT)
    document["alternatives"] = [dict(each._asdict(), manifests=dict(each.manifests)) for each in index.alternatives]
    document["ranges"] = [
        {key: value for key, value in each._asdict().items() if value is not None} for each in index.ranges
    ]
    return json.dumps(document, sort_keys=True, indent=2, ensure_ascii=True, allow_nan=False) + "\n"


def index_digest(index: Index) -> str:
    """Return the SHA-256 that stands for all alternatives together."""
    return hashlib.sha256(index_json(index).encode("ascii")).hexdigest()
