"""TensorRT-RTX on a machine without a GPU: what its parser says of a graph, and plans made ahead of time.

It is used in two ways: for the RTX targets, and as a check of any strongly typed graph by a parser of NVIDIA's own,
which knows the operators of TensorRT 11. That it takes a graph says nothing of TensorRT 8.2 or 8.5, which know fewer.
The functions of the board's builder (coformer_runtime.tensorrt) do the work, on the module `tensorrt_rtx`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coformer_runtime.errors import CheckFailed, CoformerError
from coformer_runtime.tensorrt.api import version_of
from coformer_runtime.tensorrt.library import Log, uncollected
from coformer_runtime.tensorrt.plan import ParserProblem, network_from_onnx, plan_from_network
from coformer_targets.target import Target

ARCHITECTURES = (86, 89, 120)
"""Compute capability times ten of what plans are made for: Ampere, Ada and Blackwell cards."""


def rtx_is_installed() -> bool:
    """Whether `tensorrt_rtx` can be imported here."""
    try:
        _import_rtx("")
    except CoformerError:
        return False
    return True


def require_rtx(target: Target) -> None:
    """Refuse early what only comes out after the training: plans for an RTX target need TensorRT-RTX here.

    Raises:
        CoformerError: it is not installed, is another version than the target's, or does not build for the target.
    """
    rtx, where = _import_rtx(f"target '{target.name}'"), f"target '{target.name}'"
    if version_of(rtx.__version__) != version_of(target.engine_version):
        raise CoformerError(
            f"TensorRT-RTX is {rtx.__version__} here, the target's is {target.engine_version}",
            where,
            f"install it: pip install tensorrt-rtx-cu12=={target.engine_version}.*",
        )
    _check_architecture(rtx, target.sm or 0, where)


def plan_name(graph_name: str, sm: int) -> str:
    """File name of a graph's plan for an architecture, beside the graph: where the runtime looks for it."""
    return f"{graph_name.removesuffix('.onnx')}.sm{sm}.plan"


@uncollected()
def parser_problems(graph_path: Path) -> tuple[ParserProblem, ...]:
    """Everything that TensorRT-RTX's parser says against a graph file, each with its node; () where it takes it.

    Raises:
        CoformerError: TensorRT-RTX is not installed, or the file cannot be read.
    """
    trt = _import_rtx(f"graph {graph_path.name}")
    log = Log(trt)
    return tuple(_parsed(trt, trt.Builder(log.logger), log, graph_path)[1])


@uncollected()
def plan_from_onnx(graph_path: Path, sm: int) -> bytes:
    """The plan of a graph file for one architecture; it is finished on the card, when it is first loaded there.

    Args:
        graph_path: strongly typed, of static shapes.
        sm: compute capability times ten, one that TensorRT-RTX can build for without a GPU.

    Raises:
        CoformerError: TensorRT-RTX is not installed, does not know the architecture, or the file cannot be read.
        CheckFailed: the parser or the builder refuses the graph; names the nodes.
    """
    trt = _import_rtx(f"graph {graph_path.name}")
    _check_architecture(trt, sm, f"graph {graph_path.name}")
    log = Log(trt)
    builder = trt.Builder(log.logger)
    network, problems = _parsed(trt, builder, log, graph_path)
    if problems:
        raise CheckFailed(
            f"TensorRT-RTX {trt.__version__} does not take it: {'; '.join(map(str, problems))}",
            f"graph {graph_path.name}",
            "legalise it for an RTX target",
        )
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{sm}"), 0)
    return bytes(plan_from_network(trt, builder, network, config, log, str(graph_path)))


def write_plans(graph_path: Path, folder: Path, architectures: Sequence[int] = ARCHITECTURES) -> dict[int, Path]:
    """Write `<graph's stem>.sm86.plan` and so on, each whole or not at all; the paths by architecture.

    Raises:
        CoformerError, CheckFailed: see `plan_from_onnx`; or the folder cannot be written.
    """
    paths = {}
    for sm in architectures:
        plan = plan_from_onnx(graph_path, sm)
        path = folder / plan_name(graph_path.name, sm)
        part = path.with_suffix(".part")
        try:
            part.write_bytes(plan)
            part.replace(path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise CoformerError(
                f"the plan cannot be written ({error.strerror})", str(path), "free some space, or name another folder"
            ) from error
        paths[sm] = path
    return paths


def _check_architecture(trt: Any, sm: int, where: str) -> None:
    known = [name for name in dir(trt.ComputeCapability) if name.startswith("SM")]
    if f"SM{sm}" not in known:
        raise CoformerError(
            f"TensorRT-RTX {trt.__version__} does not build for SM {sm / 10:g}",
            where,
            f"choose one of {', '.join(f'{int(name[2:]) / 10:g}' for name in sorted(known))}",
        )


def _import_rtx(where: str) -> Any:
    try:
        import tensorrt_rtx
    except (ImportError, OSError) as error:
        raise CoformerError(
            f"TensorRT-RTX cannot be imported ({error})",
            where,
            "install it: pip install 'coformer-compiler[rtx]'",
        ) from error
    return tensorrt_rtx


def _parsed(trt: Any, builder: Any, log: Log, graph_path: Path) -> tuple[Any, list[ParserProblem]]:
    try:
        return network_from_onnx(trt, builder, log, str(graph_path), strongly_typed=True)
    except OSError as error:
        raise CoformerError(
            f"cannot be read ({error.strerror})", f"graph {graph_path.name}", "give the path of a readable ONNX file"
        ) from error
