"""`coformerc inspect` on every kind of path, whole and damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.end_to_end.tiny import Outcome, coformerc, teacher_tensors


def inspect(path: Path) -> tuple[list[str], dict]:
    text, data = coformerc("inspect", path), coformerc("inspect", path, "--json")
    assert (text.code, text.err, data.code, data.err) == (0, "", 0, "")
    lines = text.out.splitlines()
    assert max(len(line) for line in lines if str(path) not in line) <= 80
    return lines, json.loads(data.out)


@pytest.mark.parametrize("name", ["", "build.json", "report.json"])
def test_a_build(out: Path, name: str) -> None:
    lines, found = inspect(out / name)
    assert lines[0] == "Tiny"
    assert found["kind"] == "build"
    assert found["report"] == json.loads((out / "report.json").read_text())


@pytest.mark.parametrize("name", ["", "manifest.json"])
def test_a_central_bundle(out: Path, name: str) -> None:
    path = out / "bundles" / "hall" / name
    lines, found = inspect(path)
    assert lines[0].startswith(f"bundle {path}, ") and lines[0].endswith(" every file as the manifest says")
    assert lines[1:4] == [
        "  device  hall, central",
        "  member  1 of attic, hall, desk",
        "  target  raspberry-pi-4b",
    ]
    assert "  output  features float32 [1, 8], 32 bytes on the wire" in lines
    assert any(line.startswith("attic, hall, desk  ") for line in lines)
    assert found["manifest"] == json.loads((out / "bundles" / "hall" / "manifest.json").read_text())


def test_a_worker_bundle(out: Path) -> None:
    lines, found = inspect(out / "bundles" / "desk")
    assert "  device  desk, worker, the central device is hall" in lines
    assert found["kind"] == "bundle"
    assert not any(line.startswith("who answers") for line in lines)


def test_a_policy(out: Path) -> None:
    lines, found = inspect(out / "policy.json")
    assert lines[0].startswith(f"policy {out / 'policy.json'} by strategy 'proportional', SHA-256 ")
    assert lines[2:] == [
        "         layers  embed  heads  neurons",
        "teacher       2     24      3       96",
        "attic         2      8      1       32",
        "hall          2      8      1       36",
        "desk          2      8      1       28",
    ]
    assert found["members"][2] == {"device": "desk", "embed": 8, "layers": 2, "heads": [1, 1], "neurons": [28, 28]}


def test_a_graph(out: Path) -> None:
    lines, found = inspect(out / "bundles" / "hall" / "member.onnx")
    assert "  opset       ai.onnx 20, com.microsoft 1" in lines
    assert "  inputs      pixels uint8 [1, 1, 8, 8]" in lines
    assert found["outputs"] == [{"name": "features", "dtype": "float", "shape": [1, 8]}]


def test_checkpoints(tiny: Path, tmp_path: Path) -> None:
    lines, found = inspect(tiny / "teacher.safetensors")
    tensors = teacher_tensors()
    assert lines[0].endswith(f": {len(tensors)} tensors, {sum(t.numel() for t in tensors.values()):,} parameters")
    assert "pos_embed                  [1, 5, 24]" in lines
    torch.save(tensors, tmp_path / "teacher.pth")
    assert inspect(tmp_path / "teacher.pth")[1] == found


def refused(outcome: Outcome) -> str:
    assert (outcome.code, outcome.out) == (2, "")
    return outcome.err


def test_nothing_there(tmp_path: Path) -> None:
    path = tmp_path / "none"
    assert refused(coformerc("inspect", path)) == (
        f"error: path {path}: there is no such file or folder; check the spelling\n"
    )


def test_what_nobody_knows(tmp_path: Path) -> None:
    assert "is nothing that the toolchain knows; name the output folder" in refused(coformerc("inspect", tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.onnx", b"\x08\xff\xff", "is no ONNX graph ("),
        ("a.safetensors", b"\x10\0\0\0\0\0\0\0{", "unreadable or truncated ("),
        ("a.pth", b"PK\x03\x04", "unreadable or truncated ("),
        ("a.json", b"{}", "not a policy: no key 'format'"),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    text = refused(coformerc("inspect", tmp_path / name))
    assert told in text and str(tmp_path / name) in text


def test_a_damaged_bundle(out: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(out / "bundles" / "desk", tmp_path / "desk"))
    with (bundle / "member.onnx").open("ab") as file:
        file.write(b"x")
    assert f"error: {bundle}: 'member.onnx' has " in refused(coformerc("inspect", bundle))


def test_a_build_without_its_report(copied: Path) -> None:
    (copied / "report.json").unlink()
    assert "cannot be read" in refused(coformerc("inspect", copied))
