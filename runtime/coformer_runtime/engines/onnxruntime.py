"""Graphs run by ONNX Runtime on the CPU, set up for a small and steady footprint."""

from typing import Any, Dict, Tuple

from ..arrays import Array
from ..dtypes import DTYPES
from ..errors import CheckFailed, CoformerError
from ..manifest import TensorSpec
from . import Engine

_NUMPY_NAMES = {"float": "float32", "double": "float64", "bool": "bool"}


class OnnxRuntimeEngine(Engine):
    """An ONNX Runtime session.

    Args:
        path: an ONNX file.
        threads: threads of one inference, at least 1.
        share_weights: compute with weights as they lie in the mapped file beside the graph, which all sessions share,
            in place of a copy that this one lays out for its kernels.

    Raises:
        CoformerError: ONNX Runtime is not installed, or refuses the file.
    """

    def __init__(self, path: str, threads: int, share_weights: bool = False) -> None:
        onnxruntime = _import_onnxruntime(path)
        try:
            session = onnxruntime.InferenceSession(
                path, _session_options(onnxruntime, threads, share_weights), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the library's exceptions share no other base
            raise CoformerError(
                "ONNX Runtime {} refuses the graph: {}".format(onnxruntime.__version__, error),
                path,
                "build the bundle for a target with this version of ONNX Runtime, or install a newer one",
            ) from error
        self._path = path
        self._session: Any = session
        self.inputs = _specs(session.get_inputs(), path)
        self.outputs = _specs(session.get_outputs(), path)
        self._names = [spec.name for spec in self.outputs]
        self._dtypes = {spec.name: spec.dtype for spec in self.inputs}

    def run(self, feeds: Dict[str, Array]) -> Dict[str, Array]:
        """Run the session; see `Engine.run`."""
        if self._session is None:
            raise CheckFailed("the engine was closed", self._path, "open it again")
        cast = {
            name: array.astype(self._dtypes[name], copy=False) if name in self._dtypes else array
            for name, array in feeds.items()
        }
        try:
            results = self._session.run(self._names, cast)
        except Exception as error:
            raise CheckFailed(
                "ONNX Runtime failed: {}".format(error),
                self._path,
                "run 'coformer-node validate' on the bundle",
            ) from error
        return dict(zip(self._names, results))

    def close(self) -> None:
        """Drop the session."""
        self._session = None


def installed_version(where: str) -> str:
    """Return ONNX Runtime's version; raise a CoformerError where it is not installed."""
    return str(_import_onnxruntime(where).__version__)


def _import_onnxruntime(where: str) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise CoformerError(
            "ONNX Runtime cannot be imported ({})".format(error),
            where,
            "install it: pip install 'coformer-runtime[onnxruntime]'",
        ) from error
    return onnxruntime


def _session_options(onnxruntime: Any, threads: int, share_weights: bool) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    # An arena never gives memory back; without one a worker's RSS stays at weights + one activation set.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    # Waiting threads must not spin: devices of a local cluster share the cores, boards run on batteries.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if share_weights:
        options.add_session_config_entry("session.disable_prepacking", "1")
    if hasattr(options, "use_deterministic_compute"):  # since 1.16; older ones have no other kernels
        options.use_deterministic_compute = True
    return options


def _specs(values: Any, path: str) -> Tuple[TensorSpec, ...]:
    specs = []
    for value in values:
        element = value.type[len("tensor(") : -1]
        name = _NUMPY_NAMES.get(element, element)
        fixed = all(isinstance(size, int) and size > 0 for size in value.shape)
        if not fixed or name not in [dtype.name for dtype in DTYPES]:
            raise CoformerError(
                "tensor '{}' is {} of shape {}; a member's tensors have fixed shapes and plain types".format(
                    value.name, value.type, list(value.shape)
                ),
                path,
                "build the bundle again with coformerc",
            )
        specs.append(TensorSpec(value.name, name, tuple(value.shape)))
    return tuple(specs)
