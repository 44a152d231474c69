"""A graph file run here as the board runs it: in half precision with every value rounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from coformer_passes.numerics import proto_without_weights, with_rounding
from coformer_runtime.engines import Engine
from coformer_runtime.engines.onnxruntime import OnnxRuntimeEngine
from coformer_runtime.errors import CheckFailed
from coformer_runtime.manifest import TensorSpec


class RoundedGraph(Engine):
    """A graph of float16, whose values are rounded where it says so.

    ONNX Runtime itself computes chains of such nodes in float32, and rounds at their ends only (`with_rounding`).

    Args:
        path: an ONNX file.

    Raises:
        CheckFailed: ONNX Runtime refuses the graph.
    """

    def __init__(self, path: Path) -> None:
        import onnxruntime

        model, self._path = with_rounding(ir.load(path)), path
        proto, self._weights = proto_without_weights(model)
        options = onnxruntime.SessionOptions()
        # Its rewrites would take the roundings out again.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 3
        try:
            self._session: Any = onnxruntime.InferenceSession(
                proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the library's exceptions share no other base
            raise CheckFailed(f"ONNX Runtime does not run it ({error})", f"graph {path}", "build again") from error
        self.inputs, self.outputs = _specs(model.graph.inputs), _specs(model.graph.outputs)
        self._types = {spec.name: np.dtype(spec.dtype) for spec in self.inputs}

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name; see `Engine.run`."""
        cast = {name: array.astype(self._types.get(name, array.dtype), copy=False) for name, array in feeds.items()}
        names = [spec.name for spec in self.outputs]
        try:
            found = self._session.run(names, {**cast, **self._weights})
        except Exception as error:  # the library's exceptions share no other base
            raise CheckFailed(
                f"ONNX Runtime does not run it ({error})", f"graph {self._path}", "build again"
            ) from error
        return dict(zip(names, found, strict=True))

    def close(self) -> None:
        """Free the session and the weights."""
        self._session, self._weights = None, {}


def opened_graph(path: Path, precision: str) -> Engine:
    """A graph file in its own precision, on one thread.

    Raises:
        CoformerError: ONNX Runtime refuses the graph.
    """
    return RoundedGraph(path) if precision == "float16" else OnnxRuntimeEngine(str(path), 1)


def _specs(values: Any) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(value.name, value.dtype.numpy().name, tuple(int(size) for size in value.shape)) for value in values
    )
