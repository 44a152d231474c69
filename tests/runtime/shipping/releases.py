"""Builds, keys and releases for the tests of shipping."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Optional

import coformer_runtime
from coformer_compiler.artifact import file_digest
from coformer_compiler.commands.keygen import generate_keys
from coformer_compiler.commands.push import PushOptions, push_build
from coformer_runtime.bundle import open_bundle
from coformer_runtime.shipping.download import Patience
from coformer_runtime.shipping.dsse import load_public_key
from coformer_runtime.shipping.http import HttpOptions
from coformer_runtime.shipping.pull import Pulled, PullOptions, pull
from coformer_runtime.shipping.reference import parse_reference
from coformer_runtime.shipping.root import CURRENT, Root
from coformer_runtime.shipping.stores import open_store
from tests.runtime import bundles

NOW = 1_800_000_000.0
SOURCES = str(Path(coformer_runtime.__file__).parents[1])
DEVICE = "hall"


def quickly(seconds: float) -> None:
    """In place of time.sleep."""


HTTP = HttpOptions(timeout_s=5.0, tries=3, sleep=quickly)
PATIENCE = Patience(tries=3, sleep=quickly, slow_for_s=0.2)


def make_build(folder: Path, build: str = "b" * 64) -> Path:
    """A build folder with the three bundles of a cluster."""
    bundles.make_cluster(folder / "bundles", build)
    manifests = {name: file_digest(folder / "bundles" / name / "manifest.json") for name in bundles.DEVICES}
    index = {
        "format": "coformer-build/1",
        "build": build,
        "devices": list(bundles.DEVICES),
        "manifests": manifests,
        "system": "cache/none",
        "packed": "cache/none",
    }
    (folder / "build.json").write_text(json.dumps(index))
    return folder


def make_keys(folder: Path, name: str = "test", algorithm: str = "ed25519") -> Path:
    """A pair of keys; returns the private one's path."""
    folder.mkdir(parents=True, exist_ok=True)
    return Path(generate_keys(folder / name, algorithm)["private"])


def pushed(out: Path, reference: str, key: Optional[Path], version: int, **more: Any) -> Dict[str, Any]:
    """Push as version `version` of "flowers"."""
    now = more.pop("now", NOW)
    options = PushOptions("flowers", version, key=key, unsigned=key is None, http=HTTP, **more)
    return push_build(out, reference, options, lambda text: None, now)


def pulled(reference: str, root: Root, key: Optional[Path], now: float = NOW, **more: Any) -> Pulled:
    """Pull what `hall` gets."""
    before = more.pop("before", lambda step: None)
    keys = () if key is None else (load_public_key(str(key.with_suffix(".pub"))),)
    settings = {"device": DEVICE, "keys": keys, "reserve_bytes": 0, "patience": PATIENCE}
    where = parse_reference(reference)
    with open_store(where, HTTP) as store:
        return pull(store, where, root, PullOptions(**{**settings, **more}), now, before)


def assert_valid(root: Root, *versions: int) -> None:
    """`current` is a whole release of one of these versions (none: there must be no `current`)."""
    record = root.served()
    if record is None:
        assert not versions or not os.path.lexists(root.at(CURRENT))
        return
    assert record.version in versions
    open_bundle(root.at(CURRENT))


def environment() -> Dict[str, str]:
    path = os.pathsep.join([SOURCES, *filter(None, sys.path)])
    return dict(os.environ, PYTHONPATH=path)


def node(*words: object) -> "subprocess.CompletedProcess[str]":
    """Run `coformer-node`."""
    command = [sys.executable, "-m", "coformer_runtime", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
