"""A build whose devices compute in int8 and float16: what is built, what it answers, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from coformer_runtime.bundle import open_bundle
from tests.end_to_end.tiny import built, coformerc, inputs


@pytest.fixture(scope="module")
def low() -> Path:
    return built("low")


@pytest.mark.slow
def test_each_engine_computes_in_its_devices_precision(low: Path) -> None:
    manifests = {path.name: open_bundle(str(path)).manifest for path in (low / "bundles").iterdir()}
    found = {name: each.engine.precision for name, each in manifests.items()}
    assert found == {"attic": "int8", "hall": "int8", "desk": "float16"}
    assert json.loads((low / "bundles" / "desk" / "recipe.json").read_text())["precision"] == "float16"
    for name, operators in (("attic", {"MatMulInteger"}), ("desk", {"Cast"})):
        graph = onnx.load(low / "bundles" / name / "member.onnx").graph
        assert operators <= {node.op_type for node in graph.node}
    aggregator = onnx.load(low / "bundles" / "desk" / "aggregators" / "0-1-2.onnx").graph
    assert "MatMulInteger" not in {node.op_type for node in aggregator.node}
    assert all(each.golden.tolerance > 1e-4 for each in manifests.values())


@pytest.mark.slow
def test_the_accuracy_as_built_is_measured_and_told(low: Path) -> None:
    report = json.loads((low / "report.json").read_text())
    lowered, accuracy = report["accuracy"]["lowered"], report["accuracy"]
    assert set(lowered["subsets"]) == set(accuracy["subsets"]) and len(lowered["members"]) == 3
    assert [device["precision"] for device in report["devices"]] == ["int8", "int8", "float16"]
    assert {note["text"].partition(":")[0] for note in report["notes"]} >= {
        "attic computes in int8",
        "desk computes in float16",
    }
    manifest = json.loads((low / "bundles" / "desk" / "manifest.json").read_text())
    expected = {"-".join(map(str, each["members"])): each["expected_accuracy"] for each in manifest["aggregators"]}
    assert expected == lowered["subsets"]
    assert "as built" in (low / "report.html").read_text()
    table = coformerc("inspect", low).out
    assert "built" in table.splitlines()[4] and max(map(len, table.splitlines())) <= 80


@pytest.mark.slow
def test_the_figures_are_those_of_the_graphs(low: Path) -> None:
    """Recomputed from the bundle with ONNX Runtime alone, for the member of int8 and its head in torch."""
    import onnxruntime
    import torch

    from coformer_compiler.data.load import load_data
    from coformer_compiler.model.system import load_system

    system = load_system(low / json.loads((low / "build.json").read_text())["system"])
    data = load_data("digits", image_size=8, channels=1, calibration=64)
    run = onnxruntime.InferenceSession(low / "bundles" / "attic" / "member.onnx", providers=["CPUExecutionProvider"])
    features = np.concatenate([run.run(None, {"pixels": image[None]})[0] for image in data.test.inputs])
    with torch.no_grad():
        answers = system.members[0].head(torch.from_numpy(features)).argmax(-1).numpy()
    share = float(np.mean(answers == data.test.labels))
    assert share == json.loads((low / "report.json").read_text())["accuracy"]["lowered"]["members"][0]


def test_float32_builds_say_nothing_of_it() -> None:
    report = json.loads((built() / "report.json").read_text())
    assert report["accuracy"]["lowered"] is None
    assert ">as built<" not in (built() / "report.html").read_text()


@pytest.mark.slow
def test_it_validates(low: Path) -> None:
    outcome = coformerc("validate", low)
    assert outcome.code == 0, outcome.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ("--precision", "float16"),
            "error: config tiny.toml, device 'attic', target 'cpu': it does not compute in float16; "
            "precision: choose one of float32, int8\n",
        ),
        (
            ("--precision", "int8", "--target", "jetson-nano"),
            "error: config tiny.toml, device 'jetson-nano', target 'jetson-nano': it does not compute in int8; "
            "precision: choose one of float16, float32\n",
        ),
        (
            ("--precision", "int8", "--target", "jetson-agx-orin"),
            "error: config tiny.toml, device 'jetson-agx-orin', target 'jetson-agx-orin': no pass writes int8 for "
            "tensorrt yet; precision: choose float16, or a target of ONNX Runtime\n",
        ),
        (
            ("--precision", "float8"),
            "error: config tiny.toml: precision = 'float8' is refused; it should be 'float32', 'float16' or 'int8'\n",
        ),
    ],
)
def test_what_a_target_does_not_compute_in_is_refused(words: tuple[str, ...], told: str, tmp_path: Path) -> None:
    outcome = coformerc("build", inputs() / "tiny.toml", "-o", tmp_path / "out", *words)
    assert (outcome.code, outcome.err) == (2, told)


def test_a_target_of_ones_own_is_built_for(tmp_path: Path) -> None:
    cpu = Path(__file__).parents[2] / "targets" / "coformer_targets" / "devices" / "cpu.toml"
    mine = tmp_path / "loft.toml"
    mine.write_text(cpu.read_text().replace("memory_mb = 8192", "memory_mb = 700"))
    words = ("build", inputs() / "tiny.toml", "-o", tmp_path / "out", "--dry-run", "--json")
    found = json.loads(coformerc(*words, "--target", "cpu", "--target-file", mine, "--target-file", mine).out)
    assert [(each["device"], each["target"]) for each in found["members"]] == [
        ("cpu", "cpu"),
        ("loft-1", "loft"),
        ("loft-2", "loft"),
    ]
    assert [each["memory_limit_mb"] for each in found["members"]] == [8192, 700, 700]
    mine.write_text(mine.read_text().replace("memory_mb = 700", "memory_mb = -1"))
    outcome = coformerc(*words[:-1], "--target-file", mine)
    assert (outcome.code, outcome.err) == (
        2,
        "error: target file loft.toml: memory_mb = -1 is refused; set it to a whole number of megabytes above zero\n",
    )
