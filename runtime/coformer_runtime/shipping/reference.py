"""Where a release is: `oci://HOST[:PORT]/NAME[:TAG][@sha256:…]`, or `oci-layout:DIR[:TAG]` for a folder."""

import difflib
import re
from typing import NamedTuple, NoReturn, Optional

from ..errors import CoformerError

REGISTRY, LAYOUT = "oci", "oci-layout"
DEFAULT_TAG = "latest"
FORMS = "write oci://HOST/NAME:TAG, or oci-layout:DIR:TAG for a folder"

# The grammars are those of the OCI distribution specification 1.1, "Pulling manifests".
_WORD = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(r"{0}(?:/{0})*".format(_WORD))
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HOST = re.compile(r"(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+)(?::[0-9]{1,5})?")


class Reference(NamedTuple):
    """One release in one store.

    Attributes:
        kind: `REGISTRY` or `LAYOUT`.
        place: the registry's HOST[:PORT], or the folder.
        name: the repository; "" for a folder.
        tag: what the release is called there.
        digest: "sha256:…" of its index, which then decides; None: whatever the tag points at.
    """

    kind: str
    place: str
    name: str
    tag: str
    digest: Optional[str] = None

    def __str__(self) -> str:
        pinned = "@" + self.digest if self.digest else ""
        if self.kind == LAYOUT:
            return "{}:{}:{}{}".format(LAYOUT, self.place, self.tag, pinned)
        return "{}://{}/{}:{}{}".format(REGISTRY, self.place, self.name, self.tag, pinned)


def parse_reference(text: str) -> Reference:
    """Return what `text` refers to; raise a CoformerError that says which part is wrong."""
    whole, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        _refuse(text, "'{}' is not a digest".format(digest), "write @sha256: and 64 hex digits in lower case")
    scheme, colon, rest = whole.partition(":")
    if colon and scheme == LAYOUT:
        return _layout(text, rest, digest or None)
    if colon and scheme == REGISTRY and rest.startswith("//"):
        return _registry(text, rest[2:], digest or None)
    near = difflib.get_close_matches(scheme, (REGISTRY, LAYOUT), 1) if colon else []
    hint = "did you mean '{}'? {}".format(near[0], FORMS) if near and near[0] != scheme else FORMS
    _refuse(text, "unknown scheme '{}'".format(scheme) if colon else "names no scheme", hint)


def _layout(text: str, rest: str, digest: Optional[str]) -> Reference:
    folder, colon, tag = rest.rpartition(":")
    if not colon or "/" in tag:
        folder, tag = rest, DEFAULT_TAG
    if not folder:
        _refuse(text, "names no folder", FORMS)
    _check_tag(text, tag)
    return Reference(LAYOUT, folder, "", tag, digest)


def _registry(text: str, rest: str, digest: Optional[str]) -> Reference:
    host, _, path = rest.partition("/")
    name, colon, tag = path.partition(":")
    if not _HOST.fullmatch(host):
        _refuse(text, "'{}' is not a registry's HOST or HOST:PORT".format(host), FORMS)
    if not _NAME.fullmatch(name):
        _refuse(
            text, "'{}' is not a repository name".format(name), "use lower-case letters, digits, '.', '_', '-', '/'"
        )
    tag = tag if colon else DEFAULT_TAG
    _check_tag(text, tag)
    return Reference(REGISTRY, host, name, tag, digest)


def _check_tag(text: str, tag: str) -> None:
    if not _TAG.fullmatch(tag):
        _refuse(text, "'{}' is not a tag".format(tag), "use up to 128 letters, digits, '_', '.' and '-'")


def _refuse(text: str, what: str, mend: str) -> NoReturn:
    raise CoformerError(what, "reference '{}'".format(text), mend)
