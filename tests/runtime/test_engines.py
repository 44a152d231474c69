"""Engines run graphs, cast what has to be cast, and say what is wrong with a graph or a bundle."""

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from coformer_runtime.bundle import Bundle, open_bundle
from coformer_runtime.engines import OPENERS, open_aggregator, open_member
from coformer_runtime.engines.onnxruntime import OnnxRuntimeEngine
from coformer_runtime.errors import CheckFailed, CoformerError
from coformer_runtime.manifest import EngineSpec, TensorSpec
from coformer_runtime.manifest_rules import ENGINE_KINDS
from tests.runtime import bundles


def test_every_kind_has_an_opener() -> None:
    assert sorted(OPENERS) == sorted(ENGINE_KINDS)


def test_member_and_aggregators(bundle_dir: Path) -> None:
    bundle = open_bundle(str(bundle_dir))
    pixels = bundles.golden_pixels()[:1]
    with open_member(bundle, 1) as engine:
        assert engine.inputs == (TensorSpec("pixels", "uint8", bundles.PIXELS),)
        assert engine.outputs == (TensorSpec("features", "float32", (1, 4)),)
        found = engine.run({"pixels": pixels})["features"]
        assert np.array_equal(found, engine.run({"pixels": pixels})["features"])
    np.testing.assert_allclose(found, bundles.features_of(0, pixels), rtol=1e-5)
    for spec in bundle.manifest.aggregators:
        feeds = {"features_{}".format(m): bundles.features_of(m, pixels) for m in spec.members}
        with open_aggregator(bundle, spec) as engine:
            logits = engine.run(feeds)["logits"]
        np.testing.assert_allclose(logits, bundles.answer_of(spec.members, pixels), rtol=1e-4, atol=1e-4)


def test_casts_the_wire_dtype(tmp_path: Path) -> None:
    graph = bundles.member_graph(1, element=TensorProto.FLOAT)
    bundle = open_bundle(bundles.make_bundle(tmp_path, 1, graph=graph))
    pixels = bundles.golden_pixels()[:1]
    with open_member(bundle, 1) as engine:
        assert engine.inputs[0].dtype == "float32"
        np.testing.assert_allclose(
            engine.run({"pixels": pixels})["features"], bundles.features_of(1, pixels), rtol=1e-5
        )


def test_closed_engine(bundle_dir: Path) -> None:
    engine = open_member(open_bundle(str(bundle_dir)), 1)
    engine.close()
    with pytest.raises(CheckFailed, match="the engine was closed"):
        engine.run({"pixels": bundles.golden_pixels()[:1]})


def test_failure_of_the_library_is_told(bundle_dir: Path) -> None:
    with open_member(open_bundle(str(bundle_dir)), 1) as engine, pytest.raises(
        CheckFailed, match="ONNX Runtime failed"
    ):
        engine.run({"pixels": np.zeros((1, 1, 9, 9), np.uint8)})


def test_unreadable_graph(tmp_path: Path) -> None:
    bundle = open_bundle(bundles.make_bundle(tmp_path, 1, graph=b"no graph"))
    with pytest.raises(CoformerError, match="refuses the graph") as caught:
        open_member(bundle, 1)
    assert caught.value.where == bundle.file("member.onnx")
    assert caught.value.exit_code == 2


def test_graph_of_another_shape(tmp_path: Path) -> None:
    wrong_input = bundles.member_graph(1, pixels=(1, 1, 5, 5))
    bundle = open_bundle(bundles.make_bundle(tmp_path / "input", 1, graph=wrong_input))
    with pytest.raises(CheckFailed, match=r"the graph takes .*5, 5.*the manifest says .*4, 4"):
        open_member(bundle, 1)
    bundle = open_bundle(bundles.make_bundle(tmp_path / "output", 1, graph=bundles.member_graph(2)))
    with pytest.raises(CheckFailed, match="the graph maps"):
        open_member(bundle, 1)


def test_dynamic_axis_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "dynamic.onnx"
    path.write_bytes(bundles.member_graph(1, pixels=("batch", 1, 4, 4), weight=bundles.member_weight(1)))
    with pytest.raises(CoformerError, match="have fixed shapes and plain types"):
        OnnxRuntimeEngine(str(path), 1)


def test_tensorrt_needs_a_plan(bundle_dir: Path) -> None:
    bundle = open_bundle(str(bundle_dir))
    engine = EngineSpec("tensorrt", "8.2.1", "member.onnx", "float32", "recipe.json")
    with pytest.raises(CoformerError) as caught:
        open_member(Bundle(bundle.directory, bundle.manifest._replace(engine=engine)), 1)
    assert caught.value.what == "the bundle holds a graph and a recipe for TensorRT, and no plan was built from them"
    assert caught.value.mend.startswith("run 'coformer-node build' on this board (plans are looked for in '")


def test_missing_library_is_named(bundle_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(CoformerError) as caught:
        open_member(open_bundle(str(bundle_dir)), 1)
    assert caught.value.mend == "install it: pip install 'coformer-runtime[onnxruntime]'"
