"""A build for boards of which one runs TensorRT: what its bundle holds, and what cannot be done here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from coformer_compiler.commands import engine_checks
from coformer_runtime.bundle import open_bundle
from tests.end_to_end.tiny import built, coformerc, inputs
from tests.passes.old_onnx import old_outputs


@pytest.fixture(scope="module")
def boards() -> Path:
    return built("mixed")


def test_each_bundle_holds_what_its_board_needs(boards: Path) -> None:
    manifests = {path.name: open_bundle(str(path)).manifest for path in (boards / "bundles").iterdir()}
    assert {name: (each.target, each.engine.kind, each.engine.recipe) for name, each in manifests.items()} == {
        "attic": ("cpu", "onnxruntime", None),
        "hall": ("raspberry-pi-4b", "onnxruntime", None),
        "desk": ("jetson-nano", "tensorrt", "recipe.json"),
    }
    assert {each.build for each in manifests.values()} == {json.loads((boards / "build.json").read_text())["build"]}
    assert {name for name, each in manifests.items() if each.aggregators} == {"hall", "desk"}
    assert {(each.central, each.standby) for each in manifests.values()} == {("hall", ("desk",))}


def test_a_device_on_standby_has_what_the_central_one_has(boards: Path) -> None:
    hall, desk = (open_bundle(str(boards / "bundles" / name)) for name in ("hall", "desk"))
    assert [spec.members for spec in desk.manifest.aggregators] == [spec.members for spec in hall.manifest.aggregators]
    answers = [np.load(bundle.file("golden/answer.npy")) for bundle in (hall, desk)]
    np.testing.assert_array_equal(*answers)
    told = coformerc("inspect", boards / "bundles" / "desk").out
    assert "  device  desk, stands by for the central device hall" in told.splitlines()


def test_the_jetson_nano_gets_graph_and_recipe_and_no_engine(boards: Path) -> None:
    bundle = boards / "bundles" / "desk"
    names = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    shared = {"manifest.json", "member.onnx", "recipe.json", "golden/input.npy", "golden/output.npy"}
    aggregators = {name for name in names if name.startswith("aggregators/")}
    assert len(aggregators) == 7 and names - aggregators == shared | {"golden/answer.npy"}
    model = onnx.load(bundle / "member.onnx")
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 13)]
    assert model.ir_version == 7
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    operators = {node.op_type for node in model.graph.node}
    assert not operators & {"LayerNormalization", "Gelu", "Cast"}
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["engine"]["version"] == "8.2.1"
    assert manifest["input"] == {"name": "pixels", "dtype": "uint8", "shape": [1, 1, 8, 8]}
    recipe = json.loads((bundle / "recipe.json").read_text())
    assert recipe


@pytest.mark.slow
@pytest.mark.interpreters
def test_the_jetson_nanos_graph_runs_in_the_libraries_of_its_time(boards: Path, tmp_path: Path) -> None:
    """The checker of onnx 1.8.1 and onnxruntime 1.10 under Python 3.6, on the bundle's own golden vectors."""
    bundle = boards / "bundles" / "desk"
    pixels = np.load(bundle / "golden" / "input.npy").astype(np.float32)
    wanted = np.load(bundle / "golden" / "output.npy")
    graph = tmp_path / "member.onnx"
    graph.write_bytes((bundle / "member.onnx").read_bytes())
    for case in range(len(pixels)):
        found = old_outputs(graph, pixels=pixels[case : case + 1])["features"]
        np.testing.assert_allclose(found[0], wanted[case], atol=1e-4, rtol=1e-4)


def test_validate_passes_and_says_what_it_skipped(boards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_checks, "OLD_PYTHON", "no-such-python")
    outcome = coformerc("validate", boards, "--json")
    assert outcome.code == 0, outcome.out
    checks = json.loads(outcome.out)["checks"]
    found = {(check["device"], check["name"]) for check in checks}
    assert ("desk", "operators of the target") in found
    skipped = {(check["device"], check["name"]): check["skipped"] for check in checks if check["skipped"]}
    for name in ("NVIDIA's parser", "NVIDIA's builder, ahead of time"):  # run where they are installed
        assert ("desk", name) in found
        skipped.pop(("desk", name), None)
    assert skipped.pop(("desk", "engine on golden vectors")).startswith("tensorrt does not run on this machine (")
    assert skipped == {
        ("desk", "checker of onnx 1.8.1"): "no Python with onnx 1.8.1: name one with --old-python",
        ("whole system", "over sockets against torch"): "tensorrt of 'desk' does not run on this machine",
    }


def test_run_says_which_device_does_not_run_here(boards: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((1, 8, 8), np.uint8))
    outcome = coformerc("run", boards, "--input", tmp_path / "x.npy")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == (
        "error: cluster of local processes: the engine of 'desk' (jetson-nano: tensorrt) does not run on this machine; "
        "ship the bundles and start `coformer-node` on the boards, or build for targets that run here to try it\n"
    )


def test_bench_leaves_out_what_does_not_run_here(boards: Path) -> None:
    outcome = coformerc("bench", boards)
    assert outcome.code == 0
    assert "desk" in outcome.out and outcome.out.count("its engine does not run on this machine") == 2
    found = json.loads(coformerc("bench", boards, "--json").out)
    assert found["members_ms"]["desk"] is None and found["aggregated_ms"] is None
    assert found["members_ms"]["hall"]["runs"] == 50


def test_the_report_says_what_was_not_measured(boards: Path) -> None:
    report = json.loads((boards / "report.json").read_text())
    assert report["latency_ms"]["members"][2] is None and report["latency_ms"]["aggregated"] is None
    assert report["cost"]["members"][2]["engine_bytes"] is None
    assert report["absent"]["latency_ms.members[2]"] == "tensorrt does not run on this machine"


def test_nobody_waits_for_a_teacher_that_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    outcome = coformerc("build", inputs() / "tiny.toml", "-o", tmp_path / "out", "--target", "jetson-nano")
    assert outcome.code == 0, outcome.err
    told = " ".join(outcome.out.split())
    assert "latency of the teacher and jetson-nano" not in told
    assert "Not measured: latency of the teacher (no member's engine runs on this machine)." in told
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["latency_ms"]["teacher"] is None
    assert json.loads((built("mixed") / "report.json").read_text())["latency_ms"]["teacher"]["median"] > 0
