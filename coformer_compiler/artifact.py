"""Artifacts and the store that caches them by content.

The key of a stage is the digest of its parents' contents, its options, the toolchain's own sources and the versions
of the libraries that compute it. A finished artifact appears by rename; one that no longer has its digest is made
again.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from coformer_compiler.progress import Progress

LIBRARIES = ("torch", "timm", "onnx", "onnx-ir", "onnxruntime", "numpy")
NAME = "artifact.json"
KEPT = 4
"""Artifacts of a stage that outlive a build: its own, and those that were used before it."""


@dataclass(frozen=True)
class Artifact:
    """The result of one stage.

    Attributes:
        kind: the stage.
        path: folder with the stage's files.
        sha256: digest of all of them.
        parents: digests of the artifacts that it was made from.
        seconds: what making it took, when it was made.
        cached: whether this build found it made.
    """

    kind: str
    path: Path
    sha256: str
    parents: tuple[str, ...]
    seconds: float = 0.0
    cached: bool = False


class NotCached(Exception):
    """A read-only store has no artifact of this kind."""

    def __init__(self, kind: str) -> None:
        """`kind` is the stage that would have to run."""
        super().__init__(kind)
        self.kind = kind


@dataclass
class Store:
    """Artifacts of one output folder, `FOLDER/KIND/KEY/`; keeps a list of those that this build used.

    With `read_only`, a stage that is not cached raises `NotCached` in place of running. Under torchrun the first
    process makes the artifacts and the others wait for them, but for collective stages, in which all of them work.
    """

    folder: Path
    progress: Progress
    read_only: bool = False
    used: list[Artifact] = field(default_factory=list)

    def stage(
        self,
        kind: str,
        parents: Sequence[Artifact],
        options: Mapping[str, Any],
        make: Callable[[Path, Path], None],
        *,
        collective: bool = False,
    ) -> Artifact:
        """The artifact of a stage: from the cache, or made now.

        Args:
            kind: name of the stage.
            parents: artifacts that `make` reads.
            options: everything else that decides the result; JSON values.
            make: writes the stage's files into its first argument; its second is a folder that survives an
                interruption, for checkpoints.
            collective: under torchrun, all processes run `make`; the first one's files count.
        """
        digests = tuple(parent.sha256 for parent in parents)
        key = _digest([kind, digests, options, toolchain_digest()])[:24]
        final = self.folder / kind / key
        artifact = load_artifact(kind, final)
        if artifact is None:
            if self.read_only:
                raise NotCached(kind)
            if first_process():
                artifact = self._make(kind, final, digests, make)
            else:
                artifact = _made_by_first(kind, final, make if collective else None)
        else:
            self.progress.note(f"{kind}: from the cache")
            if not self.read_only:
                os.utime(final / NAME)
        self.used.append(artifact)
        return artifact

    def prune(self) -> None:
        """Remove what no recent build used: all but the `KEPT` last used artifacts of every stage.

        For a build that is done and holds the output folder's lock. Nothing that this build used is removed.
        """
        used = {artifact.path for artifact in self.used}
        for kind in {artifact.kind for artifact in self.used}:
            records = sorted((self.folder / kind).glob(f"*/{NAME}"), key=lambda record: record.stat().st_mtime)
            for record in records[:-KEPT]:
                if record.parent not in used:
                    shutil.rmtree(record.parent, ignore_errors=True)

    def _make(self, kind: str, final: Path, parents: tuple[str, ...], make: Callable[[Path, Path], None]) -> Artifact:
        began = time.monotonic()
        fresh, work = final.with_name(final.name + ".new"), final.with_name(final.name + ".work")
        if final.exists():
            self.progress.note(f"{kind}: the cache entry is damaged, it is made again")
        # The build holds the output folder's lock, so that unfinished folders of any key are left over from a kill.
        for folder in (final, *final.parent.glob("*.new")):
            shutil.rmtree(folder, ignore_errors=True)
        fresh.mkdir(parents=True)
        work.mkdir(exist_ok=True)
        try:
            with self.progress.stage(kind):
                make(fresh, work)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        seconds = time.monotonic() - began
        sha256 = tree_digest(fresh)
        record = {"kind": kind, "sha256": sha256, "parents": list(parents), "seconds": round(seconds, 3)}
        (fresh / NAME).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        fresh.rename(final)
        shutil.rmtree(work, ignore_errors=True)
        return Artifact(kind, final, sha256, parents, seconds)


def first_process() -> bool:
    """Whether this is the only process, or the first of torchrun's."""
    return int(os.environ.get("RANK", "0")) == 0


def _made_by_first(kind: str, final: Path, work_along: Callable[[Path, Path], None] | None) -> Artifact:
    """Wait for the first process' artifact, after doing this process' part of a collective stage."""
    if work_along is not None:
        work = final.with_name(final.name + ".work")
        work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="coformer-") as scratch:
            work_along(Path(scratch), work)
    while (artifact := load_artifact(kind, final)) is None:
        # torchrun ends this process if the first one fails, so the wait needs no end of its own.
        time.sleep(0.2)
    return artifact


def load_artifact(kind: str, folder: Path) -> Artifact | None:
    """The finished artifact of a folder; None if there is none, or one that is not what it was."""
    try:
        record = json.loads((folder / NAME).read_text(encoding="utf-8"))
        artifact = Artifact(kind, folder, record["sha256"], tuple(record["parents"]), float(record["seconds"]), True)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return artifact if tree_digest(folder) == artifact.sha256 else None


def tree_digest(folder: Path) -> str:
    """SHA-256 over the relative paths and contents of all files of a folder, artifact.json aside."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / NAME)
    return _digest([[path.relative_to(folder).as_posix(), file_digest(path)] for path in files])


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@functools.cache
def toolchain_digest() -> str:
    """Digest of the toolchain's sources and of the versions of the libraries that compute artifacts."""
    import coformer_compiler
    import coformer_passes
    import coformer_runtime
    import coformer_targets

    packages = (coformer_compiler, coformer_passes, coformer_targets, coformer_runtime)
    folders = [Path(package.__file__).parent for package in packages if package.__file__]
    sources = [
        [folder.name, path.relative_to(folder).as_posix(), file_digest(path)]
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".py", ".toml", ".json", ".safetensors") and "__pycache__" not in path.parts
    ]
    return _digest([sources, versions()])


def versions() -> dict[str, str]:
    """Versions of the libraries that compute artifacts."""
    return {name: metadata.version(name) for name in LIBRARIES}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
