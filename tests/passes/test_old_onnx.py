"""A graph for TensorRT 8.2 is one for the onnx and the ONNX Runtime of its time, on Python 3.6."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from coformer_passes.runner import legalise
from coformer_targets import load_target
from tests.passes.old_onnx import old_outputs

pytestmark = [pytest.mark.slow, pytest.mark.interpreters]
SHAPES = {
    "plain": {},
    "qk_norm": {"qk_norm": True, "shortcut": True},
    "tanh": {"activation": "tanh", "pool": "mean", "channels": 1},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_old_checker_accepts_it_and_the_old_runtime_computes_the_same(
    transformer: Callable[..., ir.Model],
    outputs: Callable[..., list[np.ndarray]],
    tmp_path: Path,
    shape: str,
) -> None:
    model = transformer(**SHAPES[shape])
    dims = [int(dim) for dim in model.graph.inputs[0].shape]
    pixels = np.random.default_rng(0).integers(0, 256, dims, dtype=np.uint8)
    legal = legalise(model, load_target("jetson-nano"), {"pixels": pixels})
    assert (legal.graph.opset_imports, legal.ir_version) == ({"": 13}, 7)
    ir.save(legal, tmp_path / "member.onnx")
    found = old_outputs(tmp_path / "member.onnx", pixels=pixels.astype(np.float32))
    expected = outputs(model, pixels=pixels)[0]
    np.testing.assert_allclose(found["features"], expected, atol=1e-5 * float(np.abs(expected).max()), rtol=1e-5)
