"""A finished build on disk."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from coformer_runtime.errors import CoformerError
from coformer_runtime.manifest import MANIFEST_NAME

BUILD_FORMAT = "coformer-build/1"
BUILD_NAME = "build.json"


@dataclass(frozen=True)
class BuildFolder:
    """The index of a build.

    Attributes:
        path: the output folder.
        build: digest that all bundles share.
        devices: names, in member order.
        bundles: bundle folders, in the same order.
        manifests: SHA-256 of each bundle's manifest, in the same order.
        system: cache entry of the trained members and aggregator that the graphs were lowered from.
        packed: cache entry that the bundles are copies of.
    """

    path: Path
    build: str
    devices: tuple[str, ...]
    bundles: tuple[Path, ...]
    manifests: tuple[str, ...]
    system: Path
    packed: Path


def open_build(path: Path) -> BuildFolder:
    """The build in a folder.

    Raises:
        CoformerError: if there is none, or an unfinished one.
    """
    index = path / BUILD_NAME
    mend = "name the output folder of a finished `coformerc build`"
    try:
        data = json.loads(index.read_text(encoding="utf-8"))
        if data["format"] != BUILD_FORMAT:
            raise ValueError(f"format is '{data['format']}', wanted '{BUILD_FORMAT}'")
        devices = tuple(str(name) for name in data["devices"])
        return BuildFolder(
            path,
            str(data["build"]),
            devices,
            tuple(path / "bundles" / name for name in devices),
            tuple(str(data["manifests"][name]) for name in devices),
            path / data["system"],
            path / data["packed"],
        )
    except OSError as error:
        what = "holds no finished build" if path.is_dir() else "there is no such folder"
        if (path / MANIFEST_NAME).is_file():
            what, mend = "is one bundle of a build", "name the build's folder, or use `coformer-node` for one bundle"
        raise CoformerError(what, f"folder {path}", mend) from error
    except (KeyError, TypeError, ValueError) as error:
        raise CoformerError(f"the index is broken ({error})", str(index), mend) from error
