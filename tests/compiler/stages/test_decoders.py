"""The graphs for single tokens are proved in the precision that they are written in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from coformer_compiler.model.decode import cache_shapes
from coformer_compiler.model.transformer import FEATURES_NAME, Transformer
from coformer_compiler.stages.decoders import STEP, prove_decoders, write_decoders
from coformer_compiler.stages.rounded_graph import opened_graph
from coformer_runtime.errors import CheckFailed
from coformer_targets import load_target, with_precision
from tests.compiler.tiny import random_model, tiny_decoder

HALVES = with_precision(load_target("jetson-orin-nano"), "float16")
FACTOR = 60000.0
TOLERANCE = 0.02


def overflow(path: Path) -> None:
    """Let the graph multiply its features by more than halves hold, and divide by it again."""
    model = ir.load(path)
    half, single = ir.DataType.FLOAT16, ir.DataType.FLOAT
    (features,) = (value for value in model.graph.outputs if value.name == FEATURES_NAME)
    features.name = "exact"
    value = features
    steps = [("Cast", None, half), ("Mul", FACTOR, half), ("Mul", 1 / FACTOR, half), ("Cast", None, single)]
    for number, (kind, factor, dtype) in enumerate(steps):
        types = {"to": int(dtype)} if kind == "Cast" else {}
        inputs = [value]
        if factor is not None:
            constant = ir.Value(name=f"factor.{number}", const_value=ir.tensor(np.array([factor], np.float16)))
            constant.shape, constant.type = ir.Shape((1,)), ir.TensorType(half)
            model.graph.register_initializer(constant)
            inputs.append(constant)
        made = ir.Value(name=f"over.{number}", shape=features.shape, type=ir.TensorType(dtype))
        model.graph.append(ir.node(kind, inputs, types, outputs=[made]))
        value = made
    value.name = FEATURES_NAME
    model.graph.outputs[list(model.graph.outputs).index(features)] = value
    ir.save(model, path)


def full_text(member: Transformer) -> np.ndarray:
    """One input without padding."""
    stem = member.texts.spec
    return np.random.default_rng(0).integers(0, stem.pad, (1, stem.length), np.int32)


@pytest.fixture
def member() -> Transformer:
    return random_model(tiny_decoder(), seed=5)


def test_half_precision_is_proved_with_its_roundings(member: Transformer, tmp_path: Path) -> None:
    """ONNX Runtime computes chains of halves in float32: what overflows on the board does not there."""
    inputs = full_text(member)
    write_decoders(tmp_path, member, HALVES, inputs, TOLERANCE)
    caches = {name: np.zeros(shape, np.float32) for name, shape in cache_shapes(member).items()}
    prove_decoders(tmp_path, member, inputs, caches, TOLERANCE, "float16")
    overflow(tmp_path / STEP)
    prove_decoders(tmp_path, member, inputs, caches, TOLERANCE, "float32")
    with pytest.raises(CheckFailed) as caught:
        prove_decoders(tmp_path, member, inputs, caches, TOLERANCE, "float16")
    assert caught.value.where == f"graph {tmp_path / STEP}"
    assert caught.value.what.endswith("tokens differ from torch by inf")
    assert caught.value.mend == "build again; if that does not help, report a bug of the lowering"


def test_a_graph_that_does_not_run(member: Transformer, tmp_path: Path) -> None:
    write_decoders(tmp_path, member, HALVES, full_text(member), TOLERANCE)
    with opened_graph(tmp_path / STEP, "float16") as graph, pytest.raises(CheckFailed) as caught:
        graph.run({})
    assert caught.value.what.startswith("ONNX Runtime does not run it (")
    assert caught.value.where == f"graph {tmp_path / STEP}"
