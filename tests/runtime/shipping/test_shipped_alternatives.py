"""Alternatives travel as one release: each device's folder with its index, all of it or nothing."""

import json
import shutil
from pathlib import Path
from typing import Any, Callable, Dict

import pytest

from coformer_compiler.artifact import file_digest
from coformer_runtime.alternatives import INDEX_NAME, index_digest, load_index, open_held
from coformer_runtime.errors import CheckFailed, CoformerError
from coformer_runtime.shipping.activate import activate
from coformer_runtime.shipping.root import CURRENT, Root
from tests.runtime.alternatives import MEMBERS, build_of, make_alternatives
from tests.runtime.bundles import DEVICES
from tests.runtime.shipping.releases import make_keys, pulled, pushed


def make_build(folder: Path) -> Path:
    """A build folder with the alternatives of three devices."""
    make_alternatives(folder / "bundles")
    alternatives = []
    for name, members in MEMBERS.items():
        devices = [DEVICES[member] for member in members]
        manifests = {device: file_digest(folder / "bundles" / device / name / "manifest.json") for device in devices}
        alternatives.append(
            {
                "name": name,
                "build": build_of(name),
                "devices": devices,
                "manifests": manifests,
                "system": "cache/none",
                "packed": "cache/none",
            }
        )
    build = index_digest(load_index(str(folder / "bundles" / "attic")))
    index = {"format": "coformer-build/1", "build": build, "start": "100mbps", "alternatives": alternatives}
    (folder / "build.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_build(tmp_path_factory.mktemp("built") / "flowers")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return make_keys(tmp_path / "keys")


def test_each_device_gets_its_own(out: Path, key: Path, tmp_path: Path) -> None:
    reference = "oci-layout:{}:one".format(tmp_path / "layout")
    found = pushed(out, reference, key, 1)
    assert found["devices"] == dict.fromkeys(sorted(DEVICES), "cpu")
    for device in DEVICES:
        root = Root(str(tmp_path / device))
        got = pulled(reference, root, key, device=device)
        assert got.record.build == json.loads((out / "build.json").read_text())["build"]
        activate(root)
        held = open_held(root.at(CURRENT))
        assert held.device == device
        assert list(held.bundles) == [name for name, members in MEMBERS.items() if DEVICES.index(device) in members]
        assert (Path(root.at(CURRENT)) / INDEX_NAME).read_bytes() == (
            out / "bundles" / device / INDEX_NAME
        ).read_bytes()
        assert pulled(reference, root, key, device=device).present
    fresh = pulled(reference, Root(str(tmp_path / "other")), key, device="attic")
    assert fresh.travelled_bytes > 0


def test_what_is_here_does_not_travel_again(out: Path, key: Path, tmp_path: Path) -> None:
    layout, root = "oci-layout:{}".format(tmp_path / "layout"), Root(str(tmp_path / "board"))
    pushed(out, layout + ":one", key, 1)
    first = pulled(layout + ":one", root, key, device="desk")
    pushed(out, layout + ":two", key, 2)
    again = pulled(layout + ":two", root, key, device="desk")
    assert first.travelled_bytes > 0 and (again.travelled_bytes, again.present) == (0, False)


def lose_a_bundle(build: Path) -> None:
    shutil.rmtree(build / "bundles" / "desk" / "1mbps")


def change_a_file(build: Path) -> None:
    path = build / "bundles" / "desk" / "1mbps" / "member.onnx"
    path.write_bytes(path.read_bytes()[::-1])


def change_a_manifest(build: Path) -> None:
    path = build / "bundles" / "desk" / "1mbps" / "manifest.json"
    path.write_text(path.read_text().replace('"target": "cpu"', '"target": "cup"'))


def change_an_index(build: Path) -> None:
    path = build / "bundles" / "desk" / INDEX_NAME
    path.write_text(path.read_text().replace('"estimated": true', '"estimated": false'))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lose_a_bundle, "the bundle is missing"),
        (change_a_file, "'member.onnx' has the SHA-256"),
        (change_a_manifest, "it is not the bundle of 'desk' that alternatives"),
        (change_an_index, "it is not the index that the build wrote"),
    ],
)
def test_damaged_alternatives_are_not_pushed(
    out: Path, key: Path, tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    build = Path(shutil.copytree(str(out), str(tmp_path / "copy")))
    damage(build)
    with pytest.raises(CoformerError, match=said):
        pushed(build, "oci-layout:{}:one".format(tmp_path / "layout"), key, 1)


@pytest.mark.parametrize("change", ["drop a layer", "another index"])
def test_an_image_that_is_not_what_was_signed_is_refused(out: Path, key: Path, tmp_path: Path, change: str) -> None:
    """A store that lies, or a signer who was given the wrong files."""
    from coformer_runtime.shipping import contents

    reference = "oci-layout:{}:one".format(tmp_path / "layout")
    pushed(out, reference, key, 1)
    real: Any = contents.parse_index

    def other(text: str, where: str) -> Any:
        index = real(text, where)
        if change == "another index":
            return index._replace(estimated=not index.estimated)
        first, *rest = index.alternatives
        manifests = tuple((device, "0" * 64) for device, _ in first.manifests)
        return index._replace(alternatives=(first._replace(manifests=manifests), *rest))

    patched: Dict[str, Any] = {"parse_index": other}
    if change == "drop a layer":
        patched["index_digest"] = lambda index: json.loads((out / "build.json").read_text())["build"]
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, value in patched.items():
            monkeypatch.setattr(contents, name, value)
        said = "the statement says" if change == "another index" else "its layers are not the bundles of its"
        with pytest.raises(CheckFailed, match=said):
            pulled(reference, Root(str(tmp_path / "board")), key, device="desk")
