"""What a release says of itself and is signed: an in-toto statement (v1) about the devices' image manifests.

The subjects are the OCI image manifests by their digests, each named after its device; a digest of an image
manifest fixes every file of the bundle. The predicate holds what The Update Framework asks of metadata: a version
that only grows, against rollback, and an expiry, against being held back.
"""

import calendar
import re
import time
from typing import Any, Dict, NamedTuple, Optional, Tuple

from ..errors import CheckFailed, CoformerError
from ..manifest_fields import Fields, parse_json
from ..manifest_rules import DEVICE_NAME
from .store import canonical_json

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:coformer:release:1"
CLOCK_SLACK_S = 24 * 3600
"""A board's clock may be this much behind the one that pushed."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_MEND = "push the release again with `coformerc push`"


class Member(NamedTuple):
    """One device's part of a release: its target, its image manifest by SHA-256, and all bytes of its bundle."""

    device: str
    target: str
    sha256: str
    size_bytes: int


class Release(NamedTuple):
    """One release.

    Attributes:
        name: what is released; a board takes releases of one name only.
        version: grows with every release.
        created, expires: seconds since 1970, UTC.
        build: the digest that all bundles share.
        members: all devices.
    """

    name: str
    version: int
    created: int
    expires: int
    build: str
    members: Tuple[Member, ...]

    def member(self, device: str) -> Optional[Member]:
        """Return a device's part, or None."""
        return next((member for member in self.members if member.device == device), None)


def statement_json(release: Release) -> bytes:
    """Return the statement's bytes."""
    devices = {member.device: {"target": member.target, "bytes": member.size_bytes} for member in release.members}
    return canonical_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": member.device, "digest": {"sha256": member.sha256}} for member in release.members],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "name": release.name,
                "version": release.version,
                "created": time_text(release.created),
                "expires": time_text(release.expires),
                "build": release.build,
                "devices": devices,
            },
        }
    )


def parse_statement(content: bytes, where: str) -> Release:
    """Return the release that a statement describes; raise a CoformerError that names the key at fault."""
    try:
        top = Fields(parse_json(content.decode("utf-8"), where), where, "", _MEND)
    except UnicodeDecodeError:
        raise CoformerError("the statement is not UTF-8 text", where, _MEND) from None
    for key, wanted in (("_type", STATEMENT_TYPE), ("predicateType", PREDICATE_TYPE)):
        found = top.text(key)
        if found != wanted:
            mend = "install the coformer-runtime that fits, or push the release again"
            raise CoformerError("'{}' is '{}', this runtime reads '{}'".format(key, found, wanted), where, mend)
    digests: Dict[str, str] = {}
    for subject in top.sections("subject"):
        device = subject.matching("name", DEVICE_NAME, "a device name")
        digests[device] = subject.section("digest").matching("sha256", _SHA256, "a SHA-256 in lower-case hex")
    predicate = top.section("predicate")
    devices = predicate.section("devices")
    if sorted(devices.keys()) != sorted(digests):
        raise CoformerError("'subject' and 'predicate.devices' name other devices", where, _MEND)
    members = []
    for device in sorted(digests):
        entry = devices.section(device)
        members.append(Member(device, entry.text("target"), digests[device], entry.integer("bytes", 1)))
        entry.finish()
    release = Release(
        predicate.matching("name", DEVICE_NAME, "a name of letters, digits, '_', '.' and '-'"),
        predicate.integer("version", 1),
        _parse_time(predicate.matching("created", _TIME, "a time like 2026-01-31T12:00:00Z"), where),
        _parse_time(predicate.matching("expires", _TIME, "a time like 2026-01-31T12:00:00Z"), where),
        predicate.matching("build", _SHA256, "a SHA-256 in lower-case hex"),
        tuple(members),
    )
    predicate.finish()
    return release


def check_time(release: Release, now: float, where: str) -> None:
    """Raise a CheckFailed for a release that has expired, or that a board's clock makes one of the future."""
    if now >= release.expires:
        raise CheckFailed(
            "version {} expired at {}, it is {}".format(release.version, time_text(release.expires), time_text(now)),
            where,
            "push it again, or set the board's clock",
        )
    if now < release.created - CLOCK_SLACK_S:
        raise CheckFailed(
            "version {} was made at {}, the clock says {}".format(
                release.version, time_text(release.created), time_text(now)
            ),
            where,
            "set the board's clock",
        )


def choose_member(release: Release, device: str, target: Optional[str], where: str) -> Member:
    """Return the device's part; raise a CoformerError if there is none, or one for another target."""
    member = release.member(device)
    if member is None:
        names = ", ".join(each.device for each in release.members)
        raise CoformerError("it has no bundle for '{}' (devices: {})".format(device, names), where, "check --device")
    if target is not None and member.target != target:
        raise CoformerError(
            "its bundle for '{}' is for target '{}', not '{}'".format(device, member.target, target),
            where,
            "push one that was built for '{}', or check --target".format(target),
        )
    return member


def time_text(seconds: float) -> str:
    """Return "2026-01-31T12:00:00Z"."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _parse_time(text: str, where: str) -> int:
    try:
        return calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ"))
    except ValueError as error:
        raise CoformerError("'{}' is not a time".format(text), where, _MEND) from error


def version_now(now: float) -> int:
    """Return a version that grows by itself, the UTC time as a number: 20260131120000."""
    return int(time.strftime("%Y%m%d%H%M%S", time.gmtime(now)))


def facts_of(release: Release) -> Dict[str, Any]:
    """Return what people want to read of a release, as JSON values."""
    return {
        "name": release.name,
        "version": release.version,
        "created": time_text(release.created),
        "expires": time_text(release.expires),
        "build": release.build,
        "devices": {member.device: member.target for member in release.members},
    }
