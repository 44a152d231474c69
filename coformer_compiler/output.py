"""The output folder of a build: whose it is while a build runs, and how what was built appears in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coformer_compiler.artifact import file_digest, first_process, tree_digest
from coformer_compiler.commands.build_folder import BUILD_FORMAT, BUILD_NAME
from coformer_compiler.config import BuildConfig
from coformer_compiler.decomposer.policy import policy_json
from coformer_compiler.report.schema import Report
from coformer_compiler.report.write import write_report
from coformer_compiler.stages.decompose import policy_of
from coformer_compiler.stages.summarise import Artifacts
from coformer_runtime.errors import CoformerError
from coformer_runtime.manifest import MANIFEST_NAME


def publish(made: Artifacts, report: Report, config: BuildConfig, out: Path) -> None:
    """Bundles, policy, report and the build's index; each appears whole, by rename.

    The index goes first and comes last: a folder without one holds no finished build. Bundles that are there already
    stay untouched, since a node may be serving them.
    """
    bundles, index = out / "bundles", out / BUILD_NAME
    if not (bundles.is_dir() and tree_digest(bundles) == made.bundles.sha256):
        index.unlink(missing_ok=True)
        _replace_folder(made.bundles.path, bundles)
    write_whole(out / "policy.json", policy_json(policy_of(made.policy)))
    write_report(report, out)
    names = [device.name for device in config.devices]
    content = {
        "format": BUILD_FORMAT,
        "build": report.build,
        "devices": names,
        "targets": [device.target.name for device in config.devices],
        "manifests": {name: file_digest(bundles / name / MANIFEST_NAME) for name in names},
        "system": made.boosted.path.relative_to(out).as_posix(),
        "packed": made.bundles.path.relative_to(out).as_posix(),
    }
    write_whole(index, json.dumps(content, indent=2, sort_keys=True) + "\n")


def _replace_folder(source: Path, final: Path) -> None:
    fresh, old = final.with_name(f".{final.name}.new"), final.with_name(f".{final.name}.old")
    for folder in (fresh, old):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, fresh, ignore=shutil.ignore_patterns("artifact.json"))
    if final.exists():
        final.rename(old)
    fresh.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def write_whole(path: Path, text: str) -> None:
    """Write a text file; it appears by rename."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the output folder; two builds in one folder would undo each other's work.

    Under torchrun every process builds the same thing, and the first one holds the lock for all.
    """
    import fcntl

    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / ".lock").open("w")
    except OSError as error:
        raise CoformerError(
            f"cannot be written ({error.strerror})", f"output folder {out}", "choose another with -o"
        ) from error
    with lock:
        if first_process():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise CoformerError(
                    "another build is writing there", f"output folder {out}", "wait for it, or choose another with -o"
                ) from error
        yield
