"""ONNX Runtime and golden text for the tests of the canonical transformer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def session_from() -> Callable[[onnx.ModelProto], onnxruntime.InferenceSession]:
    """A checked session without graph optimisation: what runs is what was written."""

    def make(proto: onnx.ModelProto) -> onnxruntime.InferenceSession:
        onnx.checker.check_model(proto, full_check=True)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return onnxruntime.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])

    return make


@pytest.fixture(scope="session")
def run_onnx(
    session_from: Callable[[onnx.ModelProto], onnxruntime.InferenceSession],
) -> Callable[..., list[np.ndarray]]:
    """Runs a model on given inputs."""

    def run(model: ir.Model, **inputs: np.ndarray) -> list[np.ndarray]:
        return session_from(ir.to_proto(model)).run(None, inputs)

    return run


@pytest.fixture(scope="session")
def golden_text(request: pytest.FixtureRequest) -> Callable[[str, str], str]:
    """Reads golden/<name>, which `--update-golden` makes of the text."""

    def read(text: str, name: str) -> str:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"{path} is missing: run pytest with --update-golden"
        return path.read_text(encoding="utf-8")

    return read
