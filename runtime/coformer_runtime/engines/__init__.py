"""Engines: what turns a member's input into its features, behind one small interface.

`OPENERS` maps the engine kind of a manifest to the function that opens a graph of a bundle by its path. The engine
library itself is imported when an engine is opened, not before.
"""

import abc
from types import TracebackType
from typing import Callable, Dict, Optional, Tuple, Type

from ..arrays import Array
from ..bundle import Bundle
from ..errors import CheckFailed
from ..manifest import REBUILD, AggregatorSpec, TensorSpec


class Engine(abc.ABC):
    """One loaded graph. A context manager: leaving it frees the library's memory.

    Attributes:
        inputs, outputs: what the graph takes and gives, in its own dtypes.
    """

    inputs: Tuple[TensorSpec, ...] = ()
    outputs: Tuple[TensorSpec, ...] = ()

    @abc.abstractmethod
    def run(self, feeds: Dict[str, Array]) -> Dict[str, Array]:
        """Return the outputs by name for inputs by name.

        A feed of another dtype than the graph's is cast (uint8 pixels for a graph that wants float32). To be
        called from one thread at a time.

        Raises:
            CheckFailed: the engine library refused or failed.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Free the graph; further runs are errors."""

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()


def open_member(bundle: Bundle, threads: int) -> Engine:
    """Open the member's engine and check that it takes and gives what the manifest says.

    Args:
        bundle: a verified bundle.
        threads: how many threads one inference may use.

    Raises:
        CoformerError: the engine library is missing or refuses the file.
        CheckFailed: the graph's input or output is not that of the manifest.
    """
    if bundle.manifest.generation is not None:
        from ..decoder import open_decoder

        return open_decoder(bundle, threads)
    engine = open_graph(bundle, bundle.manifest.engine.file, threads)
    check_member(bundle, engine)
    if bundle.manifest.profiles is not None:
        from .profiled import open_profiles

        return open_profiles(bundle, engine, threads)
    return engine


def check_member(bundle: Bundle, engine: Engine) -> None:
    """Close the engine and raise a CheckFailed unless it takes and gives what the manifest says of the member."""
    manifest = bundle.manifest
    check_tensors(engine, (manifest.input.name,), manifest.output, bundle, manifest.engine.file)
    if engine.inputs[0].shape != manifest.input.shape:
        engine.close()
        raise CheckFailed(
            "the graph takes {}, the manifest says {}".format(engine.inputs[0], manifest.input),
            "{}, file '{}'".format(bundle.directory, manifest.engine.file),
            REBUILD,
        )


def open_aggregator(bundle: Bundle, spec: AggregatorSpec) -> Engine:
    """Open one aggregator of the central bundle: its inputs are features_0, features_2, ..."""
    engine = open_graph(bundle, spec.file, 1)
    check_aggregator(bundle, spec, engine)
    return engine


def check_aggregator(bundle: Bundle, spec: AggregatorSpec, engine: Engine) -> None:
    """Close the engine and raise a CheckFailed unless it takes its subset's features and gives the answer."""
    answer = bundle.manifest.answer
    names = tuple(feature_name(member) for member in spec.members)
    check_tensors(engine, names, TensorSpec(answer.name, answer.dtype, answer.shape), bundle, spec.file)


def feature_name(member: int) -> str:
    """Return the aggregator's input for the features of one member index."""
    return "features_{}".format(member)


def open_graph(bundle: Bundle, path: str, threads: int) -> Engine:
    """Open any graph of the bundle with the bundle's kind of engine."""
    return OPENERS[bundle.manifest.engine.kind](bundle, path, threads)


def check_tensors(engine: Engine, inputs: Tuple[str, ...], output: TensorSpec, bundle: Bundle, path: str) -> None:
    """Close the engine and raise a CheckFailed unless it has exactly these inputs and gives `output`."""
    found = tuple(sorted(spec.name for spec in engine.inputs))
    if found == tuple(sorted(inputs)) and engine.outputs == (output,):
        return
    engine.close()
    raise CheckFailed(
        "the graph maps {} to {}, the manifest says {} to {}".format(
            list(found), list(engine.outputs), sorted(inputs), [output]
        ),
        "{}, file '{}'".format(bundle.directory, path),
        REBUILD,
    )


def _open_onnxruntime(bundle: Bundle, path: str, threads: int) -> Engine:
    from .onnxruntime import OnnxRuntimeEngine

    profiles = bundle.manifest.profiles
    return OnnxRuntimeEngine(bundle.file(path), threads, profiles is not None and profiles.share_weights)


def _open_tensorrt(bundle: Bundle, path: str, threads: int) -> Engine:
    from .tensorrt import open_plan

    return open_plan(bundle, path)


def _open_tensorrt_rtx(bundle: Bundle, path: str, threads: int) -> Engine:
    from .tensorrt_rtx import open_rtx_plan

    return open_rtx_plan(bundle, path)


OPENERS: Dict[str, Callable[[Bundle, str, int], Engine]] = {
    "onnxruntime": _open_onnxruntime,
    "tensorrt": _open_tensorrt,
    "tensorrt-rtx": _open_tensorrt_rtx,
}
