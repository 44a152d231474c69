"""`coformerc validate`: what it checks, and that every kind of damage is named. Damage is done to copies of one build.

Where a manifest is "made to match", whoever did the damage wrote the new hashes into it, so that only the numbers tell.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from coformer_compiler.commands.validate import Check, junit_from_checks
from tests.end_to_end.tiny import built, coformerc

PER_BUNDLE = ["files", "manifest", "graph structure", "graph on golden vectors", "engine on golden vectors"]
FOR_ALL = ["policy", "trained weights", "subsets against torch", "over sockets against torch"]


def validate(out: Path) -> tuple[int, dict[tuple[str, str], dict[str, str | None]]]:
    outcome = coformerc("validate", out, "--json")
    assert outcome.err == ""
    found = json.loads(outcome.out)
    assert found["ok"] == (outcome.code == 0)
    return outcome.code, {(check["device"], check["name"]): check for check in found["checks"]}


def failures(out: Path) -> dict[tuple[str, str], str]:
    code, checks = validate(out)
    failed = {key: check["failure"] for key, check in checks.items() if check["failure"] is not None}
    assert code == (1 if failed else 0)
    return {key: text or "" for key, text in failed.items()}


def make_match(out: Path, device: str, index: bool = True) -> None:
    """Write the hashes of the files as they are now into the manifest, and its own into the build's index."""
    folder = out / "bundles" / device
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, entry in manifest["files"].items():
        content = (folder / name).read_bytes()
        entry.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    write_manifest(out, device, manifest, index)


def write_manifest(out: Path, device: str, manifest: dict, index: bool = True) -> None:
    path = out / "bundles" / device / "manifest.json"
    path.write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
    if index:
        build = json.loads((out / "build.json").read_text())
        build["manifests"][device] = hashlib.sha256(path.read_bytes()).hexdigest()
        (out / "build.json").write_text(json.dumps(build))


def test_a_good_build(out: Path, tmp_path: Path) -> None:
    outcome = coformerc("validate", out, "--junit", tmp_path / "junit.xml")
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    shown = [tuple(line.split(maxsplit=2)) for line in lines[:-2]]
    assert shown[:15] == [("ok", device, name) for device in ("attic", "hall", "desk") for name in PER_BUNDLE]
    assert [line.partition("whole system  ")[2] for line in lines[15:-2]] == FOR_ALL
    assert lines[-1] == f"{out}: 19 checks: 19 ok, 0 skipped, 0 failed"
    suite = ET.parse(tmp_path / "junit.xml").getroot()
    assert suite.attrib == {"name": "coformerc validate", "tests": "19", "failures": "0", "skipped": "0"}
    assert suite[0].attrib == {"classname": "attic", "name": "files"}


def test_junit_holds_failures_and_skips() -> None:
    checks = [
        Check("a", "files"),
        Check("a", "graph", failure="<broken> & bad"),
        Check("b", "engine", skipped="no GPU"),
    ]
    suite = ET.fromstring(junit_from_checks(checks))
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("3", "1", "1")
    assert [(child.tag, child.get("message")) for case in suite for child in case] == [
        ("failure", "<broken> & bad"),
        ("skipped", "no GPU"),
    ]


def test_a_junit_file_that_cannot_be(out: Path, tmp_path: Path) -> None:
    path = tmp_path / "none" / "junit.xml"
    outcome = coformerc("validate", out, "--junit", path)
    assert outcome.code == 2
    assert outcome.err == (
        f"error: JUnit file {path}: cannot be written (No such file or directory); "
        "name a file in a folder that exists\n"
    )


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("", "holds no finished build; name the output folder of a finished `coformerc build`"),
        ("none", "there is no such folder; name the output folder of a finished `coformerc build`"),
    ],
)
def test_no_build(tmp_path: Path, name: str, told: str) -> None:
    outcome = coformerc("validate", tmp_path / name)
    assert (outcome.code, outcome.err) == (2, f"error: folder {tmp_path / name}: {told}\n")


def test_a_bundle_in_the_place_of_a_build(out: Path) -> None:
    path = out / "bundles" / "desk"
    outcome = coformerc("validate", path)
    assert (outcome.code, outcome.err) == (
        2,
        f"error: folder {path}: is one bundle of a build; "
        "name the build's folder, or use `coformer-node` for one bundle\n",
    )


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format": "coformer-build/9"}'])
def test_a_broken_index(copied: Path, text: str) -> None:
    (copied / "build.json").write_text(text)
    outcome = coformerc("validate", copied)
    assert outcome.code == 2
    assert outcome.err.startswith(f"error: {copied / 'build.json'}: the index is broken (")


@pytest.mark.parametrize("name", ["member.onnx", "golden/output.npy", "aggregators/0-2.onnx"])
def test_a_flipped_byte(copied: Path, name: str) -> None:
    path = copied / "bundles" / "hall" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    outcome = coformerc("validate", copied)
    assert outcome.code == 1
    lines = outcome.out.splitlines()
    at = lines.index("FAILED    hall          files")
    assert f"'{name}' has the SHA-256 " in " ".join(" ".join(lines[at:]).split())
    assert lines[-1].endswith(": 15 checks: 12 ok, 2 skipped, 1 failed")


def test_a_missing_file(copied: Path) -> None:
    (copied / "bundles" / "desk" / "member.onnx").unlink()
    found = failures(copied)
    assert list(found) == [("desk", "files")]
    assert "'member.onnx' is missing; copy the bundle to the device again, or build it again" in found["desk", "files"]


def test_a_file_that_nobody_named(copied: Path) -> None:
    (copied / "bundles" / "desk" / "extra.so").write_bytes(b"")
    assert "'extra.so' is not listed in the manifest" in failures(copied)["desk", "files"]


def test_a_missing_bundle(copied: Path) -> None:
    shutil.rmtree(copied / "bundles" / "attic")
    assert {device for device, _ in failures(copied)} == {"attic"}


def test_swapped_bundles(copied: Path) -> None:
    bundles = copied / "bundles"
    (bundles / "attic").rename(bundles / "x")
    (bundles / "desk").rename(bundles / "attic")
    (bundles / "x").rename(bundles / "desk")
    found = failures(copied)
    assert set(found) == {("attic", "manifest"), ("desk", "manifest")}
    assert (
        'it is not the one of \'attic\' that the build wrote: device is "desk", was "attic"'
        in found["attic", "manifest"]
    )


def edited(key: str, value: object) -> Callable[[Path], None]:
    def edit(out: Path) -> None:
        manifest = json.loads((out / "bundles" / "hall" / "manifest.json").read_text())
        manifest[key] = value
        write_manifest(out, "hall", manifest, index=False)

    return edit


def test_an_edited_manifest(copied: Path) -> None:
    labels = [str(9 - n) for n in range(10)]
    edited("answer", {"name": "logits", "dtype": "float32", "shape": [1, 10], "labels": labels})(copied)
    found = failures(copied)
    assert list(found) == [("hall", "manifest")]
    assert f"answer.labels is {json.dumps(labels)}, was [" in found["hall", "manifest"]


def test_an_edited_manifest_without_the_cache(copied: Path) -> None:
    edited("wire_bytes", 33)(copied)
    shutil.rmtree(copied / "cache")
    assert ("hall", "manifest") in failures(copied)


def test_a_manifest_that_is_none(copied: Path) -> None:
    (copied / "bundles" / "hall" / "manifest.json").write_text("{}")
    assert set(failures(copied)) == {("hall", "files"), ("hall", "manifest")}


def test_damaged_weights(copied: Path) -> None:
    path = copied / "bundles" / "desk" / "member.onnx"
    model = onnx.load(path)
    weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weight.raw_data = (np.frombuffer(weight.raw_data, np.float32) * 1.5).tobytes()
    onnx.save(model, path)
    make_match(copied, "desk")
    found = failures(copied)
    assert set(found) == {
        ("desk", "graph on golden vectors"),
        ("desk", "engine on golden vectors"),
        ("whole system", "subsets against torch"),
        ("whole system", "over sockets against torch"),
    }
    assert f"graph {path}: 'features' differs from torch by " in found["desk", "graph on golden vectors"]
    assert "0-1-2.onnx: 'logits' differs from torch by " in found["whole system", "subsets against torch"]


@pytest.mark.parametrize("content", [b"", b"\x08\xff\xff", b"no graph at all"])
def test_a_file_that_is_no_graph(copied: Path, content: bytes) -> None:
    path = copied / "bundles" / "desk" / "member.onnx"
    path.write_bytes(content)
    make_match(copied, "desk")
    assert f"{path}: onnx.checker: " in failures(copied)["desk", "graph structure"]


def test_a_graph_of_another_shape(copied: Path) -> None:
    shutil.copy(copied / "bundles" / "attic" / "member.onnx", copied / "bundles" / "desk" / "member.onnx")
    make_match(copied, "desk")
    found = failures(copied)
    assert ("desk", "graph on golden vectors") in found
    assert ("whole system", "subsets against torch") in found


@pytest.mark.parametrize(
    ("name", "check"),
    [("output", ("hall", "graph on golden vectors")), ("answer", ("whole system", "subsets against torch"))],
)
def test_changed_golden_vectors(copied: Path, name: str, check: tuple[str, str]) -> None:
    path = copied / "bundles" / "hall" / "golden" / f"{name}.npy"
    np.save(path, np.load(path) + np.float32(0.01))
    make_match(copied, "hall")
    assert "differs from torch by " in failures(copied)[check]


def test_another_policy(copied: Path) -> None:
    path = copied / "policy.json"
    path.write_text(path.read_text().replace('"proportional"', '"uniform"'))
    found = failures(copied)
    assert list(found) == [("whole system", "policy")]
    assert found["whole system", "policy"].startswith(f"{path}: its digest is ")


def test_without_the_cache_the_comparisons_with_torch_are_skipped(copied: Path) -> None:
    shutil.rmtree(copied / "cache")
    code, checks = validate(copied)
    assert code == 0
    why = "the trained weights are gone with the build's cache; build again to compare with them"
    assert [checks["whole system", name]["skipped"] for name in FOR_ALL[2:]] == [why, why]


def test_damaged_weights_in_the_cache_are_not_compared_with(copied: Path) -> None:
    path = next((copied / "cache" / "boost").rglob("aggregator.safetensors"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    found = failures(copied)
    assert list(found) == [("whole system", "trained weights")]


def test_the_damage_was_done_to_copies() -> None:
    assert validate(built())[0] == 0
