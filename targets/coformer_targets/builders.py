"""Engines: proved to load on this machine (ONNX Runtime), or described for the board to build (TensorRT)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coformer_runtime.errors import CheckFailed, CoformerError
from coformer_targets.target import Target, tensorrt_older_than

if TYPE_CHECKING:
    import onnx

    Shapes = dict[str, tuple[int | str, ...]]

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
        graph_bytes: size of the graph file, and of `<file>.data` with its weights where that is beside it.
    """

    kind: str
    version: str
    precision: str
    inputs: Shapes
    outputs: Shapes
    graph_bytes: int


def engine_from_onnx(target: Target, graph_path: Path) -> EngineInfo:
    """The engine of a graph file: for ONNX Runtime a session is loaded; for TensorRT the board will build it.

    Raises:
        CheckFailed: ONNX Runtime refuses the graph.
        CoformerError: the file is no ONNX graph, or has dynamic shapes.
    """
    if target.engine == "onnxruntime":
        version, inputs, outputs = _loaded(graph_path)
    else:
        graph = _read_graph(graph_path).graph
        version, inputs, outputs = target.engine_version, _declared(graph.input), _declared(graph.output)
    for name, shape in (*inputs.items(), *outputs.items()):
        if not all(isinstance(dim, int) for dim in shape):
            raise CoformerError(
                f"'{name}' has a dynamic axis", f"graph {graph_path.name}", "lower it with static shapes"
            )
    return EngineInfo(
        kind=target.engine,
        version=version,
        precision=target.precisions[0],
        inputs=inputs,
        outputs=outputs,
        graph_bytes=sum(path.stat().st_size for path in (graph_path, *_weights_beside(graph_path))),
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


def _weights_beside(graph_path: Path) -> tuple[Path, ...]:
    data = graph_path.with_name(f"{graph_path.name}.data")
    return (data,) if data.exists() else ()


def _unreadable(path: Path, error: OSError) -> CoformerError:
    return CoformerError(
        f"cannot be read ({error.strerror})", f"graph {path.name}", "give the path of a readable ONNX file"
    )


def _read_graph(path: Path) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return onnx.load(path, load_external_data=False)
    except OSError as error:
        raise _unreadable(path, error) from error
    except DecodeError as error:
        raise CoformerError(
            f"is no ONNX graph ({error})", f"graph {path.name}", "give an ONNX file that is whole"
        ) from error


def _declared(values: Iterable[onnx.ValueInfoProto]) -> Shapes:
    return {
        value.name: tuple(
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in value.type.tensor_type.shape.dim
        )
        for value in values
    }


def _loaded(path: Path) -> tuple[str, Shapes, Shapes]:
    """The version of ONNX Runtime and the graph's inputs and outputs, after a session has loaded it."""
    import onnxruntime

    try:
        path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise CheckFailed(
            f"ONNX Runtime {onnxruntime.__version__} refuses it: {' '.join(str(error).split())}",
            f"graph {path.name}",
            "report it as a bug, with the graph",
        ) from error
    inputs = {value.name: tuple(value.shape) for value in session.get_inputs()}
    outputs = {value.name: tuple(value.shape) for value in session.get_outputs()}
    return str(onnxruntime.__version__), inputs, outputs
