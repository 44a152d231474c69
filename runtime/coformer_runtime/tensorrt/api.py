"""Every attribute of TensorRT's Python module that the runtime touches, with the versions that have it.

"Class.attribute" or the name of a class → the first and the last version, None for "still there in 11". A first version
of 8.0 may in truth be older. tests/runtime/test_tensorrt_api.py holds the code to this table, and the table to
NVIDIA's own bindings where their wheels are at hand (8.6 and later; for 8.2 to 8.5 it rests on the sources of
github.com/NVIDIA/TensorRT, python/src, branches release/8.0 to release/11.1).
"""

from typing import Dict, NamedTuple, Optional, Tuple

Version = Tuple[int, int]


class Since(NamedTuple):
    """The versions, major and minor, that have an attribute; `last` None: not removed so far."""

    first: Version
    last: Optional[Version] = None

    def covers(self, version: Version) -> bool:
        """Whether `version` has the attribute."""
        return self.first <= version and (self.last is None or version <= self.last)


OLDEST: Version = (8, 2)
"""The oldest version that is built with: JetPack 4.6.1, the last for the Nano and the TX2."""

VERSIONS: Tuple[Version, ...] = (
    (8, 2), (8, 4), (8, 5), (8, 6), (9, 0), (9, 3), (10, 0), (10, 3), (10, 7), (10, 13), (10, 16), (11, 0), (11, 4),
)  # fmt: skip
"""Where attributes come and go."""

_ALWAYS = Since((8, 0))
_UNTIL_9 = Since((8, 0), (9, 3))
_UNTIL_10 = Since((8, 0), (10, 16))

API: Dict[str, Since] = {
    "__version__": _ALWAYS,
    "Builder": _ALWAYS,
    "Builder.build_serialized_network": _ALWAYS,
    "Builder.create_builder_config": _ALWAYS,
    "Builder.create_network": _ALWAYS,
    "BuilderFlag": _ALWAYS,
    "BuilderFlag.FP16": _UNTIL_10,
    "BuilderFlag.INT8": _UNTIL_10,
    "BuilderFlag.OBEY_PRECISION_CONSTRAINTS": Since((8, 2), (10, 16)),
    "BuilderFlag.TF32": _ALWAYS,
    "DataType": _ALWAYS,
    "DataType.FLOAT": _ALWAYS,
    "DataType.HALF": _ALWAYS,
    "IBuilderConfig.clear_flag": _ALWAYS,
    "IBuilderConfig.create_timing_cache": _ALWAYS,
    "IBuilderConfig.get_timing_cache": _ALWAYS,
    "IBuilderConfig.max_workspace_size": _UNTIL_9,
    "IBuilderConfig.set_flag": _ALWAYS,
    "IBuilderConfig.set_memory_pool_limit": Since((8, 4)),
    "IBuilderConfig.set_timing_cache": _ALWAYS,
    "ICudaEngine.binding_is_input": _UNTIL_9,
    "ICudaEngine.create_execution_context": _ALWAYS,
    "ICudaEngine.get_binding_dtype": _UNTIL_9,
    "ICudaEngine.get_binding_name": _UNTIL_9,
    "ICudaEngine.get_binding_shape": _UNTIL_9,
    "ICudaEngine.get_tensor_dtype": Since((8, 5)),
    "ICudaEngine.get_tensor_mode": Since((8, 5)),
    "ICudaEngine.get_tensor_name": Since((8, 5)),
    "ICudaEngine.get_tensor_shape": Since((8, 5)),
    "ICudaEngine.num_bindings": _UNTIL_9,
    "ICudaEngine.num_io_tensors": Since((8, 5)),
    "IExecutionContext.execute_async_v2": _UNTIL_9,
    "IExecutionContext.execute_async_v3": Since((8, 5)),
    "IExecutionContext.set_tensor_address": Since((8, 5)),
    "ILayer.get_input": _ALWAYS,
    "ILayer.get_output": _ALWAYS,
    "ILayer.num_inputs": _ALWAYS,
    "ILayer.num_outputs": _ALWAYS,
    "ILayer.precision": _UNTIL_10,
    "ILayer.set_output_type": _UNTIL_10,
    "ILogger": _ALWAYS,
    "INetworkDefinition.get_layer": _ALWAYS,
    "INetworkDefinition.num_layers": _ALWAYS,
    "ITensor.dtype": _ALWAYS,
    "ITimingCache.serialize": _ALWAYS,
    "MemoryPoolType": Since((8, 4)),
    "MemoryPoolType.WORKSPACE": Since((8, 4)),
    "NetworkDefinitionCreationFlag": _ALWAYS,
    "NetworkDefinitionCreationFlag.EXPLICIT_BATCH": _UNTIL_10,
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED": Since((9, 0)),
    "OnnxParser": _ALWAYS,
    "OnnxParser.get_error": _ALWAYS,
    "OnnxParser.num_errors": _ALWAYS,
    "OnnxParser.parse": _ALWAYS,
    "ParserError.desc": _ALWAYS,
    "ParserError.node": _ALWAYS,
    "ParserError.node_name": Since((9, 1)),
    "ParserError.node_operator": Since((9, 1)),
    "Runtime": _ALWAYS,
    "Runtime.deserialize_cuda_engine": _ALWAYS,
}

RTX_API: Tuple[str, ...] = (
    "ICudaEngine.create_execution_context",
    "ICudaEngine.create_runtime_config",
    "IRuntimeCache.deserialize",
    "IRuntimeCache.serialize",
    "IRuntimeConfig.create_runtime_cache",
    "IRuntimeConfig.set_runtime_cache",
)
"""What engines/tensorrt_rtx.py touches beyond that, of `tensorrt_rtx` 1.7, whose interface is else that of 11."""


def version_of(text: str) -> Version:
    """Return major and minor of a version such as "8.2.1.8"."""
    major, minor = text.split(".")[:2]
    return int(major), int(minor)
