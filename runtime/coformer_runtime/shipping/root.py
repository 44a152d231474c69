"""A board's releases on disk.

    ROOT/
      current   -> releases/ID    what is served: `coformer-node serve ROOT/current`
      previous  -> releases/ID    what to roll back to
      next      -> releases/ID    fetched and tested, to be activated
      pins/ID   -> ../releases/ID kept from garbage collection
      releases/ID/                one bundle, whole and tested; ID is VERSION-DIGEST
      releases/ID.json            what it is: name, version, device, who signed it
      refused.json                releases that were tried and did not prove well, and why
      activation.json             there while an activation is not confirmed: what to go back to
      incoming/                   half-fetched bundles; anything in here may be removed
      keys/*.pub                  trusted public keys
      lock                        held by the one command that changes something

Every change is one rename, so that whatever kills the process or the power leaves each link pointing at a whole
release.
"""

import contextlib
import errno
import fcntl
import json
import os
import re
from typing import Any, Dict, Iterator, List, NamedTuple, Optional

from ..durable import move, remove_file, remove_folder, replace_file, replace_link
from ..errors import CoformerError
from ..manifest_fields import Fields, parse_json

CURRENT, PREVIOUS, NEXT = "current", "previous", "next"
RELEASES, PINS, INCOMING, KEYS, JOURNAL, LOCK = "releases", "pins", "incoming", "keys", "activation.json", "lock"
REFUSED = "refused.json"
RECORD_FORMAT, JOURNAL_FORMAT = "coformer-release/1", "coformer-activation/1"
REFUSED_FORMAT = "coformer-refused/1"
UNWRITABLE = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR,
    errno.EEXIST,
)  # fmt: skip
_ID = re.compile(r"[0-9]{1,20}-[0-9a-f]{12}")
_MEND = "remove it, and pull again"


class Busy(CoformerError):
    """Another command holds the lock."""


class Record(NamedTuple):
    """What a fetched release is.

    Attributes:
        id: its directory in releases/.
        name, version, build: of the release.
        device, target: of the bundle.
        image: SHA-256 of the bundle's image manifest.
        signed_by: id of the key, or None where --allow-unsigned took it.
    """

    id: str
    name: str
    version: int
    build: str
    device: str
    target: str
    image: str
    signed_by: Optional[str]


class Journal(NamedTuple):
    """An activation that is not finished: from which release (None: none) to which, and whether it proved well."""

    old: Optional[str]
    new: str
    confirmed: bool


def release_id(version: int, image: str) -> str:
    """Return the directory name of a release."""
    return "{}-{}".format(version, image[:12])


class Root:
    """The directory of a board's releases; reading needs no lock, `locked` is for changes."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self.where = "releases in {}".format(path)

    def at(self, *parts: str) -> str:
        """Return a path in it."""
        return os.path.join(self.path, *parts)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only one that changes something; raise a CoformerError if somebody else is at it.

        A disk that is full or read-only becomes a CoformerError, too.
        """
        with self._told():
            for folder in (RELEASES, INCOMING, PINS):
                os.makedirs(self.at(folder), exist_ok=True)
            with open(self.at(LOCK), "w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError as error:
                    raise Busy("another command is at work here", self.where, "wait until it ends") from error
                yield

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise
            raise CoformerError(
                "it cannot be written ({})".format(error.strerror),
                self.where,
                "make room or get the right to write there, then run the same command again",
            ) from error

    def link(self, name: str) -> Optional[str]:
        """Return the id that `current`, `previous` or `next` points at, or None."""
        try:
            return os.path.basename(os.readlink(self.at(name)))
        except OSError:
            return None

    def point(self, name: str, release: Optional[str]) -> None:
        """Let a link point at a release, or remove it."""
        if release is None:
            remove_file(self.at(name))
        else:
            replace_link(self.at(name), os.path.join(RELEASES, release))

    def folder(self, release: str) -> str:
        """Return a release's bundle."""
        return self.at(RELEASES, release)

    def holds(self, release: str) -> bool:
        """Return whether a release was fetched; it is whole then."""
        return os.path.isdir(self.folder(release)) and os.path.isfile(self.folder(release) + ".json")

    def releases(self) -> List[Record]:
        """Return what was fetched, the newest first."""
        names = os.listdir(self.at(RELEASES)) if os.path.isdir(self.at(RELEASES)) else []
        found = [self.record(name) for name in names if _ID.fullmatch(name) and self.holds(name)]
        return sorted(found, key=lambda record: (-record.version, record.id))

    def record(self, release: str) -> Record:
        """Return what a release is."""
        fields = self._document(self.folder(release) + ".json", RECORD_FORMAT)
        signed_by = fields.text("signed_by") if fields.take("signed") is True else None
        return Record(
            release,
            fields.text("name"),
            fields.integer("version", 1),
            fields.text("build"),
            fields.text("device"),
            fields.text("target"),
            fields.text("image"),
            signed_by,
        )

    def write_record(self, record: Record) -> None:
        """Note what a release is, before its directory appears."""
        document = dict(record._asdict(), format=RECORD_FORMAT, signed=record.signed_by is not None)
        self._write(self.folder(record.id) + ".json", document)

    def served(self) -> Optional[Record]:
        """Return what `current` points at, or None."""
        release = self.link(CURRENT)
        return None if release is None else self.record(release)

    def journal(self) -> Optional[Journal]:
        """Return the unfinished activation, if there is one."""
        if not os.path.exists(self.at(JOURNAL)):
            return None
        fields = self._document(self.at(JOURNAL), JOURNAL_FORMAT)
        old = fields.text("old") if fields.take("replaces") is True else None
        return Journal(old, fields.text("new"), fields.boolean("confirmed"))

    def write_journal(self, journal: Journal) -> None:
        """Note how far an activation has come."""
        document = dict(journal._asdict(), format=JOURNAL_FORMAT, replaces=journal.old is not None)
        self._write(self.at(JOURNAL), document)

    def end_journal(self) -> None:
        """Forget the activation: it is finished."""
        remove_file(self.at(JOURNAL))

    def refused(self) -> Dict[str, str]:
        """Return release → why it did not prove well here."""
        if not os.path.exists(self.at(REFUSED)):
            return {}
        fields = self._document(self.at(REFUSED), REFUSED_FORMAT)
        reasons = fields.section("releases")
        there = reasons.keys()
        return {release: reasons.text(release) for release in there}

    def refuse(self, release: str, reason: str) -> None:
        """Remember that a release did not prove well."""
        self._write_refused(dict(self.refused(), **{release: reason}))

    def forgive(self, release: str) -> None:
        """Forget that: it has proved well."""
        refused = self.refused()
        if refused.pop(release, None) is not None:
            self._write_refused(refused)

    def _write_refused(self, refused: Dict[str, str]) -> None:
        self._write(self.at(REFUSED), {"format": REFUSED_FORMAT, "releases": refused})

    def pins(self) -> List[str]:
        """Return the releases that are kept whatever comes."""
        return sorted(os.listdir(self.at(PINS))) if os.path.isdir(self.at(PINS)) else []

    def pin(self, release: str) -> None:
        """Keep a release from garbage collection."""
        self.known(release)
        replace_link(self.at(PINS, release), os.path.join("..", RELEASES, release))

    def unpin(self, release: str) -> None:
        """Let garbage collection have a release again."""
        if release not in self.pins():
            raise CoformerError("'{}' is not pinned".format(release), self.where, "see `coformer-node release list`")
        remove_file(self.at(PINS, release))

    def known(self, release: str) -> Record:
        """Return a release's record; raise a CoformerError that lists those there are."""
        if not _ID.fullmatch(release) or not self.holds(release):
            there = ", ".join(record.id for record in self.releases()) or "none"
            raise CoformerError(
                "there is no release '{}' (there: {})".format(release, there), self.where, "pull it first"
            )
        return self.record(release)

    def collect(self) -> List[str]:
        """Remove the releases that nothing points at, and what was half-fetched; return their ids."""
        journal = self.journal()
        kept = {self.link(name) for name in (CURRENT, PREVIOUS, NEXT)} | set(self.pins())
        kept |= {journal.old, journal.new} if journal else set()
        removed = []
        for name in sorted(os.listdir(self.at(RELEASES))):
            release = name[:-5] if name.endswith(".json") else name
            if release in kept:
                continue
            if os.path.isdir(self.at(RELEASES, name)):
                trash = self.at(INCOMING, "removed-" + name)
                remove_folder(trash)
                move(self.at(RELEASES, name), trash)
                removed.append(name)
            else:
                remove_file(self.at(RELEASES, name))
        self.sweep()
        return removed

    def sweep(self) -> None:
        """Remove what was half-fetched."""
        for name in os.listdir(self.at(INCOMING)):
            remove_folder(self.at(INCOMING, name))

    def _document(self, path: str, form: str) -> Fields:
        try:
            with open(path, encoding="utf-8") as stream:
                fields = Fields(parse_json(stream.read(), path), path, "", _MEND)
        except (OSError, UnicodeDecodeError) as error:
            raise CoformerError("it cannot be read ({})".format(error), path, _MEND) from error
        found = fields.text("format")
        if found != form:
            raise CoformerError("the format is '{}', not '{}'".format(found, form), path, _MEND)
        return fields

    def _write(self, path: str, document: Dict[str, Any]) -> None:
        replace_file(path, (json.dumps(document, indent=2, sort_keys=True) + "\n").encode("ascii"))
