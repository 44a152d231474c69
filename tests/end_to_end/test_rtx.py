"""A build with a device that runs TensorRT-RTX: its plans are made ahead of time, here, and travel in the bundle."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from coformer_runtime.bundle import open_bundle
from coformer_targets.tensorrt_rtx import plan_from_onnx, rtx_is_installed
from tests.end_to_end.tiny import built, coformerc, inputs

needs_rtx = pytest.mark.skipif(not rtx_is_installed(), reason="tensorrt_rtx is not installed")


@needs_rtx
def test_the_bundle_holds_a_plan_of_every_graph() -> None:
    bundle = open_bundle(str(built("rtx") / "bundles" / "desk"))
    manifest = bundle.manifest
    assert (manifest.engine.kind, manifest.engine.version, manifest.engine.recipe) == ("tensorrt-rtx", "1.7.1", None)
    names = {spec.path for spec in manifest.files}
    graphs = {name for name in names if name.endswith(".onnx")}
    assert len(graphs) == 8 and manifest.is_central  # the fastest
    assert {name.replace(".onnx", ".sm89.plan") for name in graphs} == {name for name in names if "plan" in name}
    graph = Path(bundle.file("member.onnx"))
    assert plan_from_onnx(graph, 89) == graph.with_name("member.sm89.plan").read_bytes()  # the same bytes each time


@needs_rtx
def test_it_validates() -> None:
    outcome = coformerc("validate", built("rtx"), "--json")
    checks = {(each["device"], each["name"]): each for each in json.loads(outcome.out)["checks"]}
    assert outcome.code == 0
    for name in ("operators of the target", "NVIDIA's parser", "NVIDIA's builder, ahead of time"):
        assert (checks["desk", name]["failure"], checks["desk", name]["skipped"]) == (None, None)
    assert checks["desk", "engine on golden vectors"]["skipped"].startswith("tensorrt-rtx does not run on this machine")


@pytest.mark.parametrize(
    ("version", "told"),
    [
        (None, "error: target 'rtx-ada': TensorRT-RTX cannot be imported ("),
        (
            "1.8.0.1",
            "error: target 'rtx-ada': TensorRT-RTX is 1.8.0.1 here, the target's is 1.7.1; "
            "install it: pip install tensorrt-rtx-cu12==1.7.1.*\n",
        ),
    ],
)
def test_what_is_missing_is_said_before_anything_is_trained(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str | None, told: str
) -> None:
    class Other:
        __version__ = version

    monkeypatch.setitem(sys.modules, "tensorrt_rtx", Other if version else None)
    outcome = coformerc("build", inputs() / "rtx.toml", "-o", tmp_path / "out")
    assert outcome.code == 2 and outcome.err.startswith(told)
    assert not (tmp_path / "out" / "cache").exists()
