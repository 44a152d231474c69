"""A finished build on disk."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coformer_runtime.alternatives import INDEX_NAME
from coformer_runtime.errors import CoformerError
from coformer_runtime.manifest import MANIFEST_NAME

BUILD_FORMAT = "coformer-build/1"
BUILD_NAME = "build.json"
ALTERNATIVES = "alternatives"
"""Folder of the policies and reports of a build for several bandwidths."""


@dataclass(frozen=True)
class BuildFolder:
    """One build, of which a folder holds several where they are alternatives.

    Attributes:
        path: the output folder.
        build: digest that all bundles share.
        devices: names, in member order.
        bundles: bundle folders, in the same order.
        manifests: SHA-256 of each bundle's manifest, in the same order.
        system: cache entry of the trained members and aggregator that the graphs were lowered from.
        packed: cache entry that the bundles are copies of.
        policy: the policy's file.
        name: of the alternative, "" where there is one build.
    """

    path: Path
    build: str
    devices: tuple[str, ...]
    bundles: tuple[Path, ...]
    manifests: tuple[str, ...]
    system: Path
    packed: Path
    policy: Path
    name: str = ""


@dataclass(frozen=True)
class BuildFolders:
    """All builds of an output folder.

    Attributes:
        path: the output folder.
        build: digest of the build, or of the index of alternatives.
        builds: one, or the alternatives.
        start: of these, the one that a central node begins with.
    """

    path: Path
    build: str
    builds: tuple[BuildFolder, ...]
    start: BuildFolder

    @property
    def alternatives(self) -> bool:
        """Whether the builds are alternatives."""
        return bool(self.start.name)

    @property
    def device_folders(self) -> dict[str, Path]:
        """Device → what it gets: its bundle, or the folder of its alternatives."""
        names = dict.fromkeys(name for build in self.builds for name in build.devices)
        return {name: self.path / "bundles" / name for name in names}


def open_build(path: Path) -> BuildFolder:
    """The build in a folder; of alternatives the one that a central node begins with.

    Raises:
        CoformerError: as `open_builds`.
    """
    return open_builds(path).start


def open_builds(path: Path) -> BuildFolders:
    """The builds in a folder.

    Raises:
        CoformerError: if there is none, or an unfinished one.
    """
    index = path / BUILD_NAME
    mend = "name the output folder of a finished `coformerc build`"
    try:
        data = json.loads(index.read_text(encoding="utf-8"))
        if data["format"] != BUILD_FORMAT:
            raise ValueError(f"format is '{data['format']}', wanted '{BUILD_FORMAT}'")
        if "alternatives" not in data:
            build = _build_folder(data, path)
            return BuildFolders(path, build.build, (build,), build)
        builds = tuple(_build_folder(each, path) for each in data["alternatives"])
        start = next(build for build in builds if build.name == data["start"])
        return BuildFolders(path, str(data["build"]), builds, start)
    except OSError as error:
        what = "holds no finished build" if path.is_dir() else "there is no such folder"
        if (path / MANIFEST_NAME).is_file() or (path / INDEX_NAME).is_file():
            what, mend = "is one bundle of a build", "name the build's folder, or use `coformer-node` for one bundle"
        raise CoformerError(what, f"folder {path}", mend) from error
    except (KeyError, StopIteration, TypeError, ValueError) as error:
        raise CoformerError(f"the index is broken ({error})", str(index), mend) from error


def _build_folder(data: dict[str, Any], path: Path) -> BuildFolder:
    """One build of an index."""
    devices, name = tuple(str(device) for device in data["devices"]), str(data.get("name", ""))
    return BuildFolder(
        path,
        str(data["build"]),
        devices,
        tuple(path / "bundles" / device / name for device in devices),
        tuple(str(data["manifests"][device]) for device in devices),
        path / data["system"],
        path / data["packed"],
        (path / ALTERNATIVES / name if name else path) / "policy.json",
        name,
    )
