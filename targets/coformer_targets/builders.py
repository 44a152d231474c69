"""Engines: proved to load on this machine (ONNX Runtime), or described for the board to build (TensorRT)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coformer_runtime.errors import CheckFailed, CoformerError
from coformer_targets.target import Target, tensorrt_older_than

if TYPE_CHECKING:
    import onnx

LEAST_WORKSPACE_MB, GREATEST_WORKSPACE_MB = 64, 256


@dataclass(frozen=True)
class EngineInfo:
    """What a graph becomes on the target.

    Attributes:
        kind: the target's engine.
        version: of ONNX Runtime the one that loaded the graph here, of TensorRT the one that the board has.
        precision: what the engine computes in.
        inputs: input name → shape.
        outputs: output name → shape.
        graph_bytes: size of the graph file.
    """

    kind: str
    version: str
    precision: str
    inputs: dict[str, tuple[int, ...]]
    outputs: dict[str, tuple[int, ...]]
    graph_bytes: int


def engine_from_onnx(target: Target, graph_path: Path) -> EngineInfo:
    """The engine of a graph file: for ONNX Runtime a session is loaded; for TensorRT the board will build it.

    Raises:
        CheckFailed: ONNX Runtime refuses the graph.
        CoformerError: the file is no ONNX graph, or has dynamic shapes.
    """
    graph = _read_graph(graph_path)
    inputs, outputs = _shapes(graph.graph.input, graph_path), _shapes(graph.graph.output, graph_path)
    version = _loaded_version(graph_path) if target.engine == "onnxruntime" else target.engine_version
    return EngineInfo(
        kind=target.engine,
        version=version,
        precision=target.precisions[0],
        inputs=inputs,
        outputs=outputs,
        graph_bytes=graph_path.stat().st_size,
    )


def recipe_for(target: Target, graph_path: Path) -> dict[str, Any]:
    """How the board builds the engine: the content of `recipe.json`.

    Static shapes only, so there is no optimisation profile. `workspace_mb` is there below TensorRT 8.4, where it
    must be set (the default of its tools, 16 MiB, is too little for a transformer block) and may not be all
    memory; from 8.4 on the builder's own default is all of it, and the recipe says null. `needed_mb` is what has to
    be free before the build: the engine library, the graph twice (parsed and in the plan) and the workspace.

    Raises:
        CoformerError: the target's engine needs no recipe, the file is no ONNX graph, or has dynamic shapes.
    """
    if target.engine != "tensorrt":
        raise CoformerError(
            f"{target.engine} needs no recipe", f"target '{target.name}'", "load the graph with engine_from_onnx"
        )
    info = engine_from_onnx(target, graph_path)
    workspace_mb = None
    if tensorrt_older_than(target, 8, 4):
        workspace_mb = min(max(target.memory_mb // 16, LEAST_WORKSPACE_MB), GREATEST_WORKSPACE_MB)
    graph_mb = -(-info.graph_bytes // 2**20)
    return {
        "format": "coformer-recipe/1",
        "engine": {"kind": "tensorrt", "version": info.version, "sm": target.sm},
        "graph": graph_path.name,
        "precision": info.precision,
        "inputs": {name: list(shape) for name, shape in info.inputs.items()},
        "outputs": {name: list(shape) for name, shape in info.outputs.items()},
        "workspace_mb": workspace_mb,
        "needed_mb": target.runtime_mb + 2 * graph_mb + (workspace_mb or GREATEST_WORKSPACE_MB),
        "timing_cache": "timing.cache",
        "strongly_typed": not tensorrt_older_than(target, 11),
    }


def _read_graph(path: Path) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return onnx.load(path, load_external_data=False)
    except OSError as error:
        raise CoformerError(
            f"cannot be read ({error.strerror})", f"graph {path.name}", "give the path of a readable ONNX file"
        ) from error
    except DecodeError as error:
        raise CoformerError(
            f"is no ONNX graph ({error})", f"graph {path.name}", "give an ONNX file that is whole"
        ) from error


def _shapes(values: Any, path: Path) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for value in values:
        dims = value.type.tensor_type.shape.dim
        if not all(dim.HasField("dim_value") for dim in dims):
            raise CoformerError(
                f"'{value.name}' has a dynamic axis", f"graph {path.name}", "lower it with static shapes"
            )
        shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes


def _loaded_version(path: Path) -> str:
    """The version of ONNX Runtime, after it has loaded the graph."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise CheckFailed(
            f"ONNX Runtime {onnxruntime.__version__} refuses it: {str(error).strip()}",
            f"graph {path.name}",
            "report it as a bug, with the graph",
        ) from error
    return str(onnxruntime.__version__)
