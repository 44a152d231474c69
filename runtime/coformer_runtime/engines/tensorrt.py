"""Plans run by TensorRT 8.2 to 11: by bindings up to 8.4, by named tensors from 8.5 on."""

from typing import TYPE_CHECKING, Any, Dict, List, Tuple

from ..arrays import Array
from ..bundle import Bundle
from ..errors import CheckFailed, CoformerError
from ..manifest import TensorSpec
from ..tensorrt.board import board_here
from ..tensorrt.cache import check_built, find_plan, key_of
from ..tensorrt.cuda import Cuda, open_cuda
from ..tensorrt.library import Log, import_tensorrt, uncollected
from ..tensorrt.recipe import load_recipe
from . import Engine

if TYPE_CHECKING:
    import tensorrt

# trt.nptype of 8.2 and 8.5 needs numpy.bool, which numpy 1.24 no longer has.
NUMPY_NAMES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "BOOL": "bool",
}


def open_plan(bundle: Bundle, path: str) -> "TensorRtEngine":
    """Open the plan that this board built from a graph of a verified bundle.

    Raises:
        CoformerError: none was built, it was built elsewhere, or TensorRT or CUDA is missing.
        CheckFailed: TensorRT refuses it.
    """
    graph_path = bundle.file(path)
    check_built(bundle.engines_dir, bundle.graph_sha256(path), graph_path)
    trt = import_tensorrt(graph_path)
    cuda = open_cuda(graph_path)
    key = key_of(board_here(trt, cuda), bundle.graph_sha256(path), load_recipe(bundle))
    return TensorRtEngine(trt, cuda, find_plan(bundle.engines_dir, key, graph_path).plan, graph_path)


class TensorRtEngine(Engine):
    """A deserialised plan with its buffers on the GPU.

    Args:
        trt: the library.
        cuda: the GPU.
        plan_path: a plan that was verified.
        graph_path: the graph that it was built from, for messages.

    Raises:
        CheckFailed: TensorRT refuses the plan, or memory is short.
        CoformerError: a tensor has a dynamic axis or a type that does not travel.
    """

    @uncollected()
    def __init__(self, trt: Any, cuda: Cuda, plan_path: str, graph_path: str) -> None:
        self._where, self._cuda = graph_path, cuda
        self._log = Log(trt)
        runtime = trt.Runtime(self._log.logger)
        with open(plan_path, "rb") as stream:
            engine = runtime.deserialize_cuda_engine(stream.read())
        context = self._open_context(engine) if engine is not None else None
        if engine is None or context is None:
            raise CheckFailed(
                "TensorRT {} cannot load the plan: {}".format(trt.__version__, self._log.told()),
                plan_path,
                "stop other programs if memory is short, else run 'coformer-node build --rebuild' on this board",
            )
        self._runtime, self._engine, self._context = runtime, engine, context
        self._closed = False
        self._names, self.inputs, self.outputs = tensors_of(engine, graph_path)
        self._buffers: Dict[str, int] = {}
        self._arrays: Dict[str, Array] = {}
        self._stream = 0
        try:
            self._open_buffers()
        except CheckFailed:
            self.close()
            raise

    def _open_context(self, engine: "tensorrt.ICudaEngine") -> Any:
        return engine.create_execution_context()

    def _open_buffers(self) -> None:
        import numpy

        self._stream = self._cuda.open_stream()
        for spec in self.inputs + self.outputs:
            self._arrays[spec.name] = numpy.empty(spec.shape, spec.dtype)
            self._buffers[spec.name] = self._cuda.allocate(self._arrays[spec.name].nbytes)
        if hasattr(self._context, "set_tensor_address"):
            for name, pointer in self._buffers.items():
                self._context.set_tensor_address(name, pointer)

    def run(self, feeds: Dict[str, Array]) -> Dict[str, Array]:
        """Run the plan; see `Engine.run`."""
        if self._closed:
            raise CheckFailed("the engine was closed", self._where, "open it again")
        self._check_feeds(feeds)
        for spec in self.inputs:
            self._arrays[spec.name][...] = feeds[spec.name]  # casts to the engine's type
            self._cuda.copy_in(self._buffers[spec.name], self._arrays[spec.name], self._stream)
        if not self._enqueue():
            raise CheckFailed(
                "TensorRT failed: {}".format(self._log.told()),
                self._where,
                "run 'coformer-node validate' on the bundle",
            )
        for spec in self.outputs:
            self._cuda.copy_out(self._arrays[spec.name], self._buffers[spec.name], self._stream)
        self._cuda.wait(self._stream)
        return {spec.name: self._arrays[spec.name].copy() for spec in self.outputs}

    def _check_feeds(self, feeds: Dict[str, Array]) -> None:
        given = {name: tuple(array.shape) for name, array in feeds.items()}
        wanted = {spec.name: spec.shape for spec in self.inputs}
        if given != wanted:
            raise CheckFailed(
                "TensorRT failed: it was given {}, it takes {}".format(given, wanted),
                self._where,
                "run 'coformer-node validate' on the bundle",
            )

    @uncollected()
    def _enqueue(self) -> bool:
        if hasattr(self._context, "execute_async_v3"):
            return bool(self._context.execute_async_v3(self._stream))
        pointers = [self._buffers[name] for name in self._names]
        return bool(self._context.execute_async_v2(pointers, self._stream))

    def close(self) -> None:
        """Free the GPU's memory."""
        if self._closed:
            return
        self._closed = True
        del self._context, self._engine, self._runtime  # in this order: each uses the next
        for pointer in self._buffers.values():
            self._cuda.free(pointer)
        if self._stream:
            self._cuda.close_stream(self._stream)
        self._buffers, self._stream = {}, 0


def tensors_of(
    engine: "tensorrt.ICudaEngine", where: str
) -> Tuple[List[str], Tuple[TensorSpec, ...], Tuple[TensorSpec, ...]]:
    """Return the names of an engine's tensors in its own order, its inputs and its outputs."""
    found = _io_tensors(engine) if hasattr(engine, "num_io_tensors") else _bindings(engine)
    specs = [(_spec(name, dtype.name, tuple(shape), where), takes) for name, dtype, shape, takes in found]
    inputs = tuple(spec for spec, takes in specs if takes)
    outputs = tuple(spec for spec, takes in specs if not takes)
    return [spec.name for spec, _ in specs], inputs, outputs


def _io_tensors(engine: "tensorrt.ICudaEngine") -> List[Tuple[str, Any, Any, bool]]:
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    return [
        (
            name,
            engine.get_tensor_dtype(name),
            engine.get_tensor_shape(name),
            engine.get_tensor_mode(name).name == "INPUT",
        )
        for name in names
    ]


def _bindings(engine: "tensorrt.ICudaEngine") -> List[Tuple[str, Any, Any, bool]]:
    return [
        (
            engine.get_binding_name(index),
            engine.get_binding_dtype(index),
            engine.get_binding_shape(index),
            bool(engine.binding_is_input(index)),
        )
        for index in range(engine.num_bindings)
    ]


def _spec(name: str, dtype: str, shape: Tuple[int, ...], where: str) -> TensorSpec:
    if dtype not in NUMPY_NAMES or any(size < 1 for size in shape):
        raise CoformerError(
            "tensor '{}' is {} of shape {}; a member's tensors have fixed shapes and plain types".format(
                name, dtype, list(shape)
            ),
            where,
            "build the bundle again with coformerc",
        )
    return TensorSpec(name, NUMPY_NAMES[dtype], tuple(int(size) for size in shape))
