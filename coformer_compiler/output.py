"""The output folder of a build: whose it is while a build runs, and how what was built appears in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coformer_compiler.artifact import Artifact, file_digest, first_process, tree_digest
from coformer_compiler.commands.build_folder import ALTERNATIVES, BUILD_FORMAT, BUILD_NAME
from coformer_compiler.config import BuildConfig
from coformer_compiler.decomposer.policy import policy_json
from coformer_compiler.report.schema import Report
from coformer_compiler.report.write import write_report
from coformer_compiler.stages.alternatives import Together
from coformer_compiler.stages.decompose import policy_of
from coformer_compiler.stages.summarise import Artifacts
from coformer_runtime.alternatives import index_digest
from coformer_runtime.errors import CoformerError
from coformer_runtime.manifest import MANIFEST_NAME


def publish(made: Artifacts, report: Report, config: BuildConfig, out: Path) -> None:
    """Bundles, policy, report and the build's index; each appears whole, by rename.

    The index goes first and comes last: a folder without one holds no finished build. Bundles that are there already
    stay untouched, since a node may be serving them.
    """
    _place_bundles(made.bundles, out)
    shutil.rmtree(out / ALTERNATIVES, ignore_errors=True)
    write_whole(out / "policy.json", policy_json(policy_of(made.policy)))
    write_report(report, out)
    _write_index({"format": BUILD_FORMAT, **_described(made, report, config, out)}, out)


def publish_alternatives(together: Together, reports: Sequence[Report], out: Path) -> None:
    """The same for several builds: bundles in `bundles/DEVICE/NAME/`, policy and report in `alternatives/NAME/`.

    Policy and report of the alternative that is begun with lie where those of a single build do.
    """
    _place_bundles(together.bundles, out)
    fresh = out / f".{ALTERNATIVES}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    described = []
    for choice, made, report in zip(together.choices, together.made, reports, strict=True):
        folder = fresh / choice.name
        folder.mkdir(parents=True)
        write_whole(folder / "policy.json", policy_json(policy_of(made.policy)))
        write_report(report, folder)
        described.append({"name": choice.name, **_described(made, report, choice.members, out)})
    _move_folder(fresh, out / ALTERNATIVES)
    write_whole(out / "policy.json", policy_json(policy_of(together.made[together.start].policy)))
    write_report(reports[together.start], out)
    content = {
        "format": BUILD_FORMAT,
        "build": index_digest(together.index),
        "start": together.index.start,
        "alternatives": described,
    }
    _write_index(content, out)


def _place_bundles(bundles: Artifact, out: Path) -> None:
    """Put the bundles in their place; the build's index goes first, since it vouches for them."""
    final = out / "bundles"
    if not (final.is_dir() and tree_digest(final) == bundles.sha256):
        (out / BUILD_NAME).unlink(missing_ok=True)
        _replace_folder(bundles.path, final)


def _described(made: Artifacts, report: Report, config: BuildConfig, out: Path) -> dict[str, Any]:
    """What the index says of one build."""
    names = [device.name for device in config.devices]
    return {
        "build": report.build,
        "devices": names,
        "targets": [device.target.name for device in config.devices],
        "manifests": {name: file_digest(made.bundles.path / name / MANIFEST_NAME) for name in names},
        "system": made.boosted.path.relative_to(out).as_posix(),
        "packed": made.bundles.path.relative_to(out).as_posix(),
    }


def _write_index(content: dict[str, Any], out: Path) -> None:
    write_whole(out / BUILD_NAME, json.dumps(content, indent=2, sort_keys=True) + "\n")


def _replace_folder(source: Path, final: Path) -> None:
    fresh = final.with_name(f".{final.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(source, fresh, ignore=shutil.ignore_patterns("artifact.json"))
    _move_folder(fresh, final)


def _move_folder(fresh: Path, final: Path) -> None:
    old = final.with_name(f".{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
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
