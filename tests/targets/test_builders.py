"""Tests of coformer_targets.builders."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx
import onnxruntime
import pytest

from coformer_runtime.errors import CheckFailed, CoformerError
from coformer_targets import engine_from_onnx, load_target, recipe_for

NANO, CPU = load_target("jetson-nano"), load_target("cpu")


@pytest.fixture
def graph(tmp_path: Path):
    def write(body: str = "g (float[1,4] x) => (float[1,4] y) { y = Relu(x) }", opset: int = 13, ir: int = 7) -> Path:
        path = tmp_path / "member.onnx"
        onnx.save(onnx.parser.parse_model(f'<ir_version: {ir}, opset_import: ["": {opset}]> {body}'), path)
        return path

    return write


def test_an_onnx_runtime_engine_is_proved_to_load(graph) -> None:
    path = graph()
    info = engine_from_onnx(CPU, path)
    assert (info.kind, info.version, info.precision) == ("onnxruntime", onnxruntime.__version__, "float32")
    assert (info.inputs, info.outputs) == ({"x": (1, 4)}, {"y": (1, 4)})
    assert info.graph_bytes == path.stat().st_size


def test_a_graph_that_onnx_runtime_refuses(graph) -> None:
    path = graph("g (float[1,4] x) => (float[1,4] y) { y = NoSuchOperator(x) }")
    with pytest.raises(CheckFailed, match=r"graph member\.onnx: ONNX Runtime .* refuses it: .*NoSuchOperator"):
        engine_from_onnx(CPU, path)


def test_a_tensorrt_engine_is_only_described(graph) -> None:
    info = engine_from_onnx(NANO, graph())
    assert (info.kind, info.version, info.precision) == ("tensorrt", "8.2.1", "float32")


def test_the_recipe_of_a_jetson_nano(graph) -> None:
    assert recipe_for(NANO, graph()) == {
        "format": "coformer-recipe/1",
        "engine": {"kind": "tensorrt", "version": "8.2.1", "sm": 53},
        "graph": "member.onnx",
        "precision": "float32",
        "inputs": {"x": [1, 4]},
        "outputs": {"y": [1, 4]},
        "workspace_mb": 256,
        "needed_mb": 1200 + 2 + 256,
        "timing_cache": "timing.cache",
        "strongly_typed": False,
    }


def test_the_workspace_follows_the_memory_and_the_version(graph) -> None:
    path = graph()
    assert recipe_for(dataclasses.replace(NANO, memory_mb=2048), path)["workspace_mb"] == 128
    assert recipe_for(dataclasses.replace(NANO, memory_mb=512), path)["workspace_mb"] == 64
    assert recipe_for(dataclasses.replace(NANO, engine_version="8.5.2"), path)["workspace_mb"] is None
    assert recipe_for(dataclasses.replace(NANO, engine_version="11.0.0"), path)["strongly_typed"] is True


def test_onnx_runtime_has_no_recipe(graph) -> None:
    with pytest.raises(CoformerError) as caught:
        recipe_for(CPU, graph())
    assert str(caught.value) == ("target 'cpu': onnxruntime needs no recipe; load the graph with engine_from_onnx")


@pytest.mark.parametrize("target", [CPU, NANO], ids=lambda target: target.name)
def test_a_dynamic_axis_is_refused(graph, target) -> None:
    path = graph("g (float[n,4] x) => (float[n,4] y) { y = Relu(x) }")
    with pytest.raises(CoformerError) as caught:
        engine_from_onnx(target, path)
    assert str(caught.value) == "graph member.onnx: 'x' has a dynamic axis; lower it with static shapes"


@pytest.mark.parametrize("target", [CPU, NANO], ids=lambda target: target.name)
def test_a_missing_file(tmp_path: Path, target) -> None:
    with pytest.raises(CoformerError) as caught:
        engine_from_onnx(target, tmp_path / "no.onnx")
    assert str(caught.value) == (
        "graph no.onnx: cannot be read (No such file or directory); give the path of a readable ONNX file"
    )


@pytest.mark.parametrize("target", [CPU, NANO], ids=lambda target: target.name)
def test_a_truncated_file(graph, target) -> None:
    path = graph()
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(CoformerError, match=r"graph member\.onnx: .*(is no ONNX graph|refuses it)"):
        engine_from_onnx(target, path)
