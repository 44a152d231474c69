"""Tests of coformer_passes.pipeline: whole graphs, as the compiler lowers them."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coformer_passes.check_operators import check_operators
from coformer_passes.lower_opset import lower_opset
from coformer_passes.pipeline import PIPELINES, TOLERANCES
from coformer_passes.runner import PassRecord, legalise
from coformer_targets import load_target, operator_table, target_names
from coformer_targets.target import ENGINES

PASSES = sorted({each for pipeline in PIPELINES.values() for each in pipeline}, key=lambda each: each.__name__)
SHAPES = {
    "plain": {},
    "qk_norm": {"qk_norm": True},
    "shortcut": {"shortcut": True, "pool": "mean"},
    "tanh": {"activation": "tanh", "channels": 1, "image": 8, "patch": 2},
    "unequal": {"embed": 20, "heads": 1, "head_dim": 6, "mlp": 8},
}


def _golden(model: ir.Model, cases: int = 2) -> dict[str, np.ndarray]:
    shape = [int(dim) for dim in model.graph.inputs[0].shape]
    return {"pixels": np.random.default_rng(0).integers(0, 256, (cases, *shape[1:]), dtype=np.uint8)}


def test_every_engine_has_a_pipeline() -> None:
    assert set(PIPELINES) == set(ENGINES)
    assert all(pipeline[-1].__name__ == "check_operators" for pipeline in PIPELINES.values())


@pytest.mark.parametrize("engine", PIPELINES)
def test_nothing_that_moves_a_rounding_error_follows_a_pass_that_gives_up_precision(engine) -> None:
    pipeline = PIPELINES[engine]
    first = min((pipeline.index(each) for each in TOLERANCES if each in pipeline), default=len(pipeline))
    behind = [each for each in pipeline[first:] if each not in TOLERANCES]
    assert not behind or behind == [lower_opset, check_operators]


@pytest.mark.parametrize("each", PASSES, ids=lambda each: each.__name__)
def test_a_pass_is_one_file_with_one_function_and_tells_why(each) -> None:
    path = Path(inspect.getfile(each))
    assert path.stem == each.__name__
    assert (Path(__file__).parent / f"test_{each.__name__}.py").exists()
    text = inspect.getdoc(each) or ""
    for section in ("Given", "Result", "Why: ", "TensorRT: ", "Source: "):
        assert re.search(rf"^{section}", text, re.MULTILINE), section
    assert list(inspect.signature(each).parameters) == ["model", "target"]


@pytest.mark.parametrize("name", target_names())
@pytest.mark.parametrize("shape", SHAPES)
def test_every_target_takes_every_shape(transformer, outputs, name, shape) -> None:
    model, target = transformer(**SHAPES[shape]), load_target(name)
    golden = _golden(model)
    result = legalise(model, target, golden)
    assert result.graph.opset_imports[""] <= target.opset and result.ir_version <= target.ir_version
    for case in range(2):
        pixels = golden["pixels"][case : case + 1]
        expected = outputs(model, pixels=pixels)[0]
        fed = pixels if target.uint8_input else pixels.astype(np.float32)
        difference = np.abs(outputs(result, pixels=fed)[0] - expected).max() / np.abs(expected).max()
        assert difference < 1e-5
    assert [value.name for value in result.graph.outputs] == ["features"]


@settings(max_examples=12, deadline=None)
@given(
    shape=st.fixed_dictionaries(
        {
            "layers": st.integers(1, 3),
            "embed": st.integers(1, 40),
            "heads": st.integers(1, 4),
            "head_dim": st.integers(1, 12),
            "mlp": st.integers(1, 50),
            "channels": st.integers(1, 3),
            "qk_norm": st.booleans(),
            "shortcut": st.booleans(),
            "pool": st.sampled_from(["token", "mean"]),
            "activation": st.sampled_from(["none", "tanh"]),
        }
    ),
    name=st.sampled_from(["cpu", "jetson-nano"]),
)
def test_any_shape(transformer, shape, name) -> None:
    model, target = transformer(image=8, patch=4, **shape), load_target(name)
    result = legalise(model, target, _golden(model), tolerance=1e-4)
    assert result.graph.opset_imports[""] <= target.opset


@pytest.mark.parametrize("name", target_names())
def test_an_aggregator_of_several_inputs(parse, outputs, name) -> None:
    random = np.random.default_rng(0)
    text = """g (float[1,4] features_0, float[1,6] features_2) => (float[1,3] logits) {
        x = Concat<axis = 1>(features_0, features_2)  p = MatMul(x, w)  logits = Add(p, b)
    }"""
    arrays = {"w": random.standard_normal((10, 3)).astype(np.float32), "b": np.ones(3, np.float32)}
    golden = {f"features_{n}": random.standard_normal((5, d)).astype(np.float32) for n, d in ((0, 4), (2, 6))}
    model = parse(text, arrays)
    result = legalise(model, load_target(name), golden)
    one = {key: array[:1] for key, array in golden.items()}
    np.testing.assert_allclose(outputs(result, **one)[0], outputs(model, **one)[0], rtol=1e-5)


def test_the_graph_of_a_jetson_nano(transformer, op_types, golden_text) -> None:
    nano = load_target("jetson-nano")
    model = transformer(layers=1, embed=8, heads=2, head_dim=4, mlp=8, image=4, patch=2, channels=1)
    result = legalise(model, nano, _golden(model))
    table = operator_table(nano)
    assert table is not None and set(op_types(result)) <= set(table.operators)
    assert result.graph.inputs[0].dtype == ir.DataType.FLOAT
    assert "pixels.mean" not in result.graph.initializers and "pixels.scale" not in result.graph.initializers
    assert not any("query.scaled" in (node.name or "") for node in result.graph)
    golden_text(_without_weights(result), "pipeline.jetson_nano")


def _without_weights(model: ir.Model) -> ir.Model:
    """The text of the numbers would depend on the last bit of a sum; shapes and small integers do not."""
    clone = model.clone()
    for value in clone.graph.initializers.values():
        if value.dtype == ir.DataType.FLOAT and value.const_value.size > 1:
            value.const_value = ir.tensor(np.zeros(value.const_value.shape.numpy(), np.float32), name=value.name)
    return clone


def test_legalising_twice_gives_the_same_graph(transformer) -> None:
    nano = load_target("jetson-nano")
    model = transformer()
    first, second = (legalise(model, nano, _golden(model)) for _ in range(2))
    assert ir.to_proto(first).SerializeToString() == ir.to_proto(second).SerializeToString()


def test_a_legal_graph_is_left_as_it_is(transformer) -> None:
    nano = load_target("jetson-nano")
    model = transformer()
    legal = legalise(model, nano, _golden(model))
    records: list[PassRecord] = []
    legalise(legal, nano, _golden(model), record=records.append)
    assert [each.name for each in records if each.modified] == []


def test_the_weights_of_the_given_graph_are_not_touched(transformer) -> None:
    model = transformer()
    before = {name: value.const_value.tobytes() for name, value in model.graph.initializers.items()}
    legalise(model, load_target("jetson-nano"), _golden(model))
    assert {name: value.const_value.tobytes() for name, value in model.graph.initializers.items()} == before
    assert model.graph.opset_imports == {"": 20} and model.graph.inputs[0].dtype == ir.DataType.UINT8
