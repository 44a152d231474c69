"""A stand-in for TensorRT's Python module as any version has it, for machines without a GPU.

Its attributes are those of `coformer_runtime.tensorrt.api.API` for the version, no more and no fewer, and assigning to
another is an error, as with the real bindings. A "plan" is the ONNX file behind a header; running it is ONNX Runtime's
work, on memory that the stand-ins for CUDA hand out. It shows that the runtime calls what a version has, in an
order that works, and moves the right bytes; it shows nothing of what TensorRT itself would make of a graph. Python 3.6.
"""

import ctypes
import json
import os
import signal
import time
import types

import numpy
import onnxruntime

from coformer_runtime.tensorrt.api import API, version_of

_MAGIC = b"FAKEPLAN"
_TYPES = {
    "tensor(float)": "FLOAT", "tensor(float16)": "HALF", "tensor(uint8)": "UINT8", "tensor(int8)": "INT8",
    "tensor(int32)": "INT32", "tensor(int64)": "INT64", "tensor(bool)": "BOOL",
}  # fmt: skip
_NUMPY = {"FLOAT": "f4", "HALF": "f2", "UINT8": "u1", "INT8": "i1", "INT32": "i4", "INT64": "i8", "BOOL": "?"}
_ELEMENTS = {1: "FLOAT", 2: "UINT8", 3: "INT8", 6: "INT32", 7: "INT64", 9: "BOOL", 10: "HALF"}


class _Value(object):
    """A value of a pybind11 enumeration: it has a name and can become an int, but is none."""

    def __init__(self, name, value):
        self.name, self._value = name, value

    def __int__(self):
        return self._value

    def __repr__(self):
        return self.name


def _enumeration(name, **values):
    return type(name, (), {key: _Value(key, value) for key, value in values.items()})


def session_of(content):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def module(version, gpu, behaviour):
    """Return the module.

    Args:
        version: "8.2.1.8".
        gpu: name of the GPU; a plan of another one is refused.
        behaviour: "build" → "fail", "kill", "raise" or seconds to sleep; "parse" → "fail"; "log" → a warning to give.
    """
    era = version_of(version)

    class ILogger(object):
        def log(self, severity, text):
            raise NotImplementedError

    class ParserError(object):
        __slots__ = ("_text",)

        def __init__(self, text):
            self._text = text

        def desc(self):
            return self._text

        def node(self):
            return 7

        def node_name(self):
            return "blocks.3.norm1"

        def node_operator(self):
            return "LayerNormalization"

    class ITensor(object):
        __slots__ = ("_dtype",)

        def __init__(self, dtype):
            self._dtype = dtype

        @property
        def dtype(self):
            return self._dtype

    class ILayer(object):
        __slots__ = ("_inputs", "_outputs", "_pinned")

        def __init__(self, inputs, outputs):
            self._inputs, self._outputs, self._pinned = inputs, outputs, []

        num_inputs = property(lambda self: len(self._inputs))
        num_outputs = property(lambda self: len(self._outputs))

        def get_input(self, index):
            return self._inputs[index]

        def get_output(self, index):
            return self._outputs[index]

        @property
        def precision(self):
            return self._pinned[0]

        @precision.setter
        def precision(self, dtype):
            self._pinned.append(dtype)

        def set_output_type(self, index, dtype):
            self._pinned.append(dtype)

    class INetworkDefinition(object):
        __slots__ = ("_content", "_flags", "_layers")

        def __init__(self, flags):
            self._content, self._flags, self._layers = b"", flags, []

        num_layers = property(lambda self: len(self._layers))

        def get_layer(self, index):
            return self._layers[index]

    class OnnxParser(object):
        __slots__ = ("_errors", "_network")

        def __init__(self, network, logger):
            self._network, self._errors = network, []

        num_errors = property(lambda self: len(self._errors))

        def get_error(self, index):
            return self._errors[index]

        def parse(self, content, path=None):
            if era < (10, 0) and not self._network._flags & 1:
                self._errors.append(ParserError("This version of the parser wants an explicit batch dimension"))
            elif behaviour.get("parse") == "fail":
                self._errors += [ParserError("no importer\n for it"), ParserError("second")]
            else:
                try:
                    session = session_of(content)
                except Exception as error:  # noqa: BLE001 - whatever it is, it is the parser's error
                    self._errors.append(ParserError(str(error)))
                else:
                    if era < (8, 5) and any(value.type == "tensor(uint8)" for value in session.get_inputs()):
                        self._errors.append(ParserError("unsupported data type UINT8"))
            self._network._content = content
            self._network._layers = _layers(content, ILayer, ITensor, DataType)
            return not self._errors

    class ITimingCache(object):
        __slots__ = ("_content",)

        def __init__(self, content):
            self._content = content

        def serialize(self):
            return memoryview(self._content)

    class IBuilderConfig(object):
        __slots__ = ("_cache", "_flags", "_workspace")

        def __init__(self):
            self._flags, self._workspace, self._cache = {"TF32"}, None, None

        def set_flag(self, flag):
            self._flags.add(flag.name)

        def clear_flag(self, flag):
            self._flags.discard(flag.name)

        def set_memory_pool_limit(self, pool, size):
            assert pool.name == "WORKSPACE"
            self._workspace = size

        @property
        def max_workspace_size(self):
            return self._workspace

        @max_workspace_size.setter
        def max_workspace_size(self, size):
            self._workspace = size

        def create_timing_cache(self, content):
            assert isinstance(content, bytes)
            return ITimingCache(content or version.encode("ascii"))

        def set_timing_cache(self, cache, ignore_mismatch):
            assert not ignore_mismatch
            if not cache._content.startswith(version.encode("ascii")):
                return False
            self._cache = cache
            return True

        def get_timing_cache(self):
            return self._cache

    class Builder(object):
        __slots__ = ("_logger",)

        def __init__(self, logger):
            assert isinstance(logger, ILogger)
            self._logger = logger

        def create_network(self, flags=0):
            assert type(flags) is int
            return INetworkDefinition(flags)

        def create_builder_config(self):
            return IBuilderConfig()

        def build_serialized_network(self, network, config):
            if "log" in behaviour:
                self._logger.log(_Value("WARNING", 2), behaviour["log"])
            act = behaviour.get("build", 0)
            if act == "fail" or (era < (8, 4) and (config._workspace or 0) < 16 << 20):
                self._logger.log(_Value("ERROR", 1), "Could not find any implementation for\nnode {ForeignNode[...]}.")
                return None
            if act == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if act == "raise":
                raise RuntimeError("an assertion of the library")
            if act:
                time.sleep(float(act))
            config._cache._content += b"+"
            header = {
                "version": version,
                "gpu": gpu,
                "flags": sorted(config._flags),
                "network_flags": network._flags,
                "workspace": config._workspace,
                "pinned": sum(1 for layer in network._layers if layer._pinned),
                "built": time.time(),
            }
            text = json.dumps(header).encode("ascii")
            return memoryview(_MAGIC + len(text).to_bytes(4, "little") + text + network._content)

    class IExecutionContext(object):
        __slots__ = ("_addresses", "_engine")

        def __init__(self, engine):
            self._engine, self._addresses = engine, {}

        def set_tensor_address(self, name, pointer):
            assert name in self._engine._names
            self._addresses[name] = pointer
            return True

        def execute_async_v3(self, stream):
            return self._engine._run(self._addresses)

        def execute_async_v2(self, pointers, stream):
            assert len(pointers) == len(self._engine._names)
            addresses = dict(zip(self._engine._names, pointers))
            return self._engine._run(addresses)

    class ICudaEngine(object):
        __slots__ = ("_names", "_outputs", "_session", "_specs")

        def __init__(self, content):
            self._session = session_of(content)
            self._outputs = [value.name for value in self._session.get_outputs()]
            self._specs = {value.name: value for value in self._session.get_outputs() + self._session.get_inputs()}
            # Its own order: outputs first, so that nobody relies on the graph's.
            self._names = list(self._specs)

        num_bindings = property(lambda self: len(self._names))
        num_io_tensors = property(lambda self: len(self._names))

        def create_execution_context(self):
            return IExecutionContext(self)

        def get_binding_name(self, index):
            return self._names[index]

        def get_binding_dtype(self, index):
            return self._dtype(self._names[index])

        def get_binding_shape(self, index):
            return tuple(self._specs[self._names[index]].shape)

        def binding_is_input(self, index):
            return self._names[index] not in self._outputs

        def get_tensor_name(self, index):
            return self._names[index]

        def get_tensor_dtype(self, name):
            return self._dtype(name)

        def _dtype(self, name):
            return getattr(DataType, _TYPES[self._specs[name].type])

        def get_tensor_shape(self, name):
            return tuple(self._specs[name].shape)

        def get_tensor_mode(self, name):
            return _Value("OUTPUT", 2) if name in self._outputs else _Value("INPUT", 1)

        def _run(self, addresses):
            feeds = {value.name: self._view(value, addresses).copy() for value in self._session.get_inputs()}
            results = self._session.run(self._outputs, feeds)
            for name, result in zip(self._outputs, results):
                self._view(self._specs[name], addresses)[...] = result
            return True

        def _view(self, value, addresses):
            dtype = numpy.dtype(_NUMPY[_TYPES[value.type]])
            size = int(numpy.prod(value.shape)) * dtype.itemsize
            memory = (ctypes.c_char * size).from_address(addresses[value.name])
            return numpy.frombuffer(memory, dtype).reshape(value.shape)

    class Runtime(object):
        __slots__ = ("_logger",)

        def __init__(self, logger):
            assert isinstance(logger, ILogger)
            self._logger = logger

        def deserialize_cuda_engine(self, plan):
            size = int.from_bytes(plan[8:12], "little")
            header = json.loads(plan[12 : 12 + size].decode("ascii")) if plan[:8] == _MAGIC else {}
            if (header.get("version"), header.get("gpu")) != (version, gpu):
                self._logger.log(_Value("ERROR", 1), "Version tag does not match")
                return None
            return ICudaEngine(plan[12 + size :])

    DataType = _enumeration("DataType", FLOAT=0, HALF=1, INT8=2, INT32=3, BOOL=4, UINT8=5, INT64=8)
    BuilderFlag = _enumeration("BuilderFlag", FP16=0, INT8=1, TF32=7, OBEY_PRECISION_CONSTRAINTS=10)
    typed = 0 if era >= (11, 0) else 1
    NetworkDefinitionCreationFlag = _enumeration(
        "NetworkDefinitionCreationFlag", EXPLICIT_BATCH=0, STRONGLY_TYPED=typed
    )
    MemoryPoolType = _enumeration("MemoryPoolType", WORKSPACE=0)
    made = types.ModuleType("tensorrt")
    kinds = [ILogger, ParserError, ITensor, ILayer, INetworkDefinition, OnnxParser, ITimingCache, IBuilderConfig,
             Builder, IExecutionContext, ICudaEngine, Runtime, DataType, BuilderFlag, NetworkDefinitionCreationFlag,
             MemoryPoolType]  # fmt: skip
    for kind in kinds:
        setattr(made, kind.__name__, kind)
    made.__version__ = version
    _trim(made, kinds, era)
    return made


def _trim(made, kinds, era):
    """Leave what the table says that the version has; a public attribute that is not in the table is an error."""
    always = {"ILogger.log"} | {"DataType." + name for name in _NUMPY}
    for kind in kinds:
        for name in [name for name in vars(kind) if not name.startswith("_")]:
            path = "{}.{}".format(kind.__name__, name)
            assert path in API or path in always, path
    for path, since in sorted(API.items(), reverse=True):  # attributes before the classes that they are of
        owner, _, name = path.rpartition(".")
        if not since.covers(era) and hasattr(getattr(made, owner) if owner else made, name):
            delattr(getattr(made, owner) if owner else made, name)


def _layers(content, layer_kind, tensor_kind, data_type):
    """Return one layer per node where the package onnx is there to tell types; none elsewhere."""
    try:
        import onnx
    except ImportError:
        return []
    model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(content))
    graph = model.graph
    types_by_name = {each.name: each.data_type for each in graph.initializer}
    for value in list(graph.value_info) + list(graph.input) + list(graph.output):
        types_by_name[value.name] = value.type.tensor_type.elem_type

    def tensors(names):
        return [tensor_kind(getattr(data_type, _ELEMENTS[types_by_name[name]])) for name in names if name]

    return [layer_kind(tensors(node.input), tensors(node.output)) for node in graph.node]
