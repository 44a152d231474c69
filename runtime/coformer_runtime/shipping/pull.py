"""`coformer-node pull`: from a reference to a whole, tested release on disk. `STEPS` is the table of contents.

Until the last step nothing that is served or was fetched before is touched; after a kill or a full disk at any
point, the same command goes on with the files that had arrived.
"""

import os
import shutil
import time
from typing import Callable, Dict, List, NamedTuple, Optional, Tuple

from ..alternatives import open_all
from ..bundle import ENGINES, file_sha256
from ..durable import move, remove_folder, replace_file, sync_tree
from ..errors import CheckFailed, CoformerError
from ..manifest import FileSpec
from .contents import Contents, files_in, read_contents
from .download import Patience, download
from .dsse import PublicKey, parse_envelope, verify
from .manifests import BUNDLE, PUSH_AGAIN, STATEMENT, Image, parse_image, parse_index
from .reference import Reference
from .root import INCOMING, NEXT, Record, Root, release_id
from .selftest import self_test
from .statement import Member, Release, check_time, choose_member, parse_statement
from .store import Store, check_digest, digest_of, read_document, read_small_blob

MAX_BYTES = 8 << 30
RESERVE_BYTES = 64 << 20
"""Left free on the disk, for logs and for what a board's plans need."""


class PullOptions(NamedTuple):
    """What a board accepts.

    Attributes:
        device: whose bundle to take.
        target: the target that it must be for; None: any.
        keys: public keys, one of which must have signed.
        allow_unsigned: take a release that nobody signed.
        allow_downgrade: take an older version than the one served.
        retry: take a release that was tried here and rolled back.
        max_bytes: largest bundle.
        reserve_bytes: to be left free on the disk.
        patience: with a slow network.
    """

    device: str
    target: Optional[str] = None
    keys: Tuple[PublicKey, ...] = ()
    allow_unsigned: bool = False
    allow_downgrade: bool = False
    retry: bool = False
    max_bytes: int = MAX_BYTES
    reserve_bytes: int = RESERVE_BYTES
    patience: Patience = Patience()


class Pulled(NamedTuple):
    """What came of it: the release, whether it was there already, bytes that travelled, and bytes taken from disk."""

    record: Record
    present: bool
    travelled_bytes: int
    reused_bytes: int


class Progress:
    """What the steps have found so far; each step reads what those before it wrote."""

    release: Release
    member: Member
    record: Record
    image: Image
    contents: Contents
    signed_by: Optional[str] = None
    travelled_bytes = 0
    reused_bytes = 0

    def __init__(self, store: Store, reference: Reference, root: Root, options: PullOptions, now: float) -> None:
        self.store, self.reference, self.root, self.options, self.now = store, reference, root, options, now
        self.where = str(reference)

    @property
    def staging(self) -> str:
        """The half-fetched bundle; its name depends on the content, so that a later pull finds it again."""
        return self.root.at(INCOMING, self.record.id)


def pull(
    store: Store,
    reference: Reference,
    root: Root,
    options: PullOptions,
    now: Optional[float] = None,
    before: Callable[[str], None] = lambda step: None,
) -> Pulled:
    """Bring the device's bundle of a release into `root` and let `next` point at it.

    Args:
        store: where the reference is.
        reference: the release.
        root: the board's releases.
        options: what is accepted.
        now: seconds since 1970; None: the clock's.
        before: called with the name of every step before it.

    Raises:
        CheckFailed: not signed by a trusted key, expired, older than what is served, damaged, or failing its
            self-test.
        CoformerError: not there, not for this board, too large, or the disk is full.
    """
    with root.locked():
        progress = Progress(store, reference, root, options, time.time() if now is None else now)
        present = False
        for name, step in STEPS:
            before(name)
            if name in FETCHING and present:
                continue
            step(progress)
            present = present or (name == "accept" and root.holds(progress.record.id))
        return Pulled(progress.record, present, progress.travelled_bytes, progress.reused_bytes)


def read_release(
    store: Store, reference: Reference, keys: Tuple[PublicKey, ...], allow_unsigned: bool
) -> Tuple[Release, Optional[str], str]:
    """Return a release's statement, the id of the key that signed it or None, and the digest of its index."""
    where = str(reference)
    if not keys and not allow_unsigned:
        raise CoformerError("no key is trusted", where, "name one with --key, or pass --allow-unsigned")
    index = store.read_manifest(reference.digest or reference.tag)
    digest = digest_of(index)
    if reference.digest:
        check_digest(index, reference.digest, where)
    image = parse_image(read_document(store, parse_index(index, where)), STATEMENT, where)
    if len(image.layers) != 1:
        raise CoformerError("its statement has {} layers, not 1".format(len(image.layers)), where, PUSH_AGAIN)
    envelope = parse_envelope(read_small_blob(store, image.layers[0]), where)
    # --allow-unsigned is for a release without a signature; a wrong signature is refused wherever a key is given.
    unsigned = allow_unsigned and (not keys or not envelope.signatures)
    signed_by = None if unsigned else verify(envelope, keys, where)
    return parse_statement(envelope.payload, where), signed_by, digest


def _resolve(p: Progress) -> None:
    """Read the statement that the tag leads to and check its signature."""
    p.release, p.signed_by, _ = read_release(p.store, p.reference, p.options.keys, p.options.allow_unsigned)


def _accept(p: Progress) -> None:
    """Check expiry, device, target, name and version against what is served."""
    check_time(p.release, p.now, p.where)
    p.member = choose_member(p.release, p.options.device, p.options.target, p.where)
    name = release_id(p.release.version, p.member.sha256)
    release, member = p.release, p.member
    p.record = Record(
        name, release.name, release.version, release.build, member.device, member.target, member.sha256, p.signed_by
    )
    refused = p.root.refused()
    if name in refused and not p.options.retry:
        raise CheckFailed(
            "version {} was tried here and rolled back: {}".format(release.version, refused[name]),
            p.where,
            "push a mended one with a higher version, or pass --retry",
        )
    served = p.root.served()
    if served is None:
        return
    _check_line(p, served)
    _check_version(p, served)


def _check_line(p: Progress, served: Record) -> None:
    for what, ours, theirs, option in (
        ("release", served.name, p.record.name, "the reference"),
        ("device", served.device, p.record.device, "--device"),
    ):
        if ours != theirs:
            raise CoformerError(
                "it serves {} '{}', not '{}'".format(what, ours, theirs),
                p.root.where,
                "check {}, or name another --root".format(option),
            )


def _check_version(p: Progress, served: Record) -> None:
    if p.record.version < served.version and not p.options.allow_downgrade:
        raise CheckFailed(
            "version {} is older than {}, which is served".format(p.record.version, served.version),
            p.where,
            "pass --allow-downgrade if that is meant",
        )
    if p.record.version == served.version and p.record.image != served.image:
        raise CheckFailed(
            "version {} has another content than the version {} that is served".format(
                p.record.version, served.version
            ),
            p.where,
            "push it again with a higher version",
        )


def _describe(p: Progress) -> None:
    """Read the image manifest that was signed, and what it says of the bundle or the alternatives; compare them."""
    p.image = parse_image(read_document(p.store, "sha256:" + p.member.sha256), BUNDLE, p.where)
    p.contents = read_contents(p.store, p.image, p.member, p.release, p.where)


def _make_room(p: Progress) -> None:
    """Check the size against the cap and the free space; make the directory that takes the files."""
    total = sum(spec.size_bytes for spec in p.contents.files) + len(p.contents.said)
    if total > p.options.max_bytes:
        raise CoformerError(
            "the bundle has {:,} bytes, at most {:,} are taken".format(total, p.options.max_bytes),
            p.where,
            "raise --max-bytes",
        )
    for name in os.listdir(p.root.at(INCOMING)):
        if name != p.record.id:
            remove_folder(p.root.at(INCOMING, name))
    there = sum(os.path.getsize(os.path.join(folder, n)) for folder, _, names in os.walk(p.staging) for n in names)
    disk = os.statvfs(p.root.path)
    free, needed = disk.f_bavail * disk.f_frsize, max(0, total - there) + p.options.reserve_bytes
    if free < needed:
        raise CoformerError(
            "{:,} bytes are free, {:,} are needed".format(free, needed),
            p.root.where,
            "make room on the disk: `coformer-node release collect` removes what nothing points at",
        )
    os.makedirs(p.staging, exist_ok=True)
    replace_file(os.path.join(p.staging, p.contents.name), p.contents.said)


def _download(p: Progress) -> None:
    """Bring every file that has not arrived yet: from a release that has the same, or from the store."""
    at_hand = _files_at_hand(p.root)
    for spec in p.contents.files:
        path = os.path.join(p.staging, *spec.path.split("/"))
        if os.path.exists(path) and file_sha256(path) == spec.sha256:
            continue
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if _copied(at_hand.get(spec.sha256, []), spec, path):
            p.reused_bytes += spec.size_bytes
        else:
            p.travelled_bytes += download(p.store, spec, path, p.options.patience)


def _files_at_hand(root: Root) -> Dict[str, List[str]]:
    """SHA-256 → files of the releases here that should have it."""
    found: Dict[str, List[str]] = {}
    for record in root.releases():
        folder = root.folder(record.id)
        for spec in files_in(folder):
            found.setdefault(spec.sha256, []).append(os.path.join(folder, *spec.path.split("/")))
    return found


def _copied(sources: List[str], spec: FileSpec, path: str) -> bool:
    """Whether one of the files was what it should be and is copied; a link would let both rot together."""
    for source in sources:
        if os.path.isfile(source) and file_sha256(source) == spec.sha256:
            shutil.copyfile(source, path + ".part")
            if file_sha256(path + ".part") == spec.sha256:
                move(path + ".part", path)
                return True
    return False


def _check(p: Progress) -> None:
    """Hash everything once more as it lies on the disk, and have it written to the disk."""
    for folder, _, names in os.walk(p.staging):
        for name in names:
            if name.endswith(".part"):
                os.unlink(os.path.join(folder, name))
    open_all(p.staging, p.member.target, p.root.at(ENGINES))
    sync_tree(p.staging)


def _try_out(p: Progress) -> None:
    """Run the golden vectors in a process of its own."""
    first = open_all(p.staging, None, p.root.at(ENGINES))[0]  # alternatives of a device are for one target
    self_test(p.staging, first.manifest, p.root.at(ENGINES))


def _publish(p: Progress) -> None:
    """Let the release appear, by one rename."""
    remove_folder(p.root.folder(p.record.id))  # without a record it is nobody's
    p.root.write_record(p.record)
    move(p.staging, p.root.folder(p.record.id))


def _point(p: Progress) -> None:
    """Let `next` point at it."""
    p.root.point(NEXT, p.record.id)


STEPS: Tuple[Tuple[str, Callable[[Progress], None]], ...] = (
    ("resolve", _resolve),
    ("accept", _accept),
    ("describe", _describe),
    ("make room", _make_room),
    ("download", _download),
    ("check", _check),
    ("try out", _try_out),
    ("publish", _publish),
    ("point", _point),
)
FETCHING = ("describe", "make room", "download", "check", "try out", "publish")
"""The steps that a release which is here already does without."""
