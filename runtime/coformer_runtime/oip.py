"""The messages of the Open Inference Protocol v2, and of Triton's that its clients ask for besides.

Names, numbers and types are those of open_inference_grpc.proto, grpc_service.proto and model_config.proto (package
inference).
"""

import functools
from typing import Any, Dict, Tuple

from .messages import ONEOF, Fields, message_classes

PACKAGE = "inference"
MODEL = "coformer"  # the one model that a central node serves
ERROR_KEY = "coformer-error-bin"  # trailing metadata: what, where and mend of an error as JSON
BROADCAST_KEY = "broadcast"  # request parameter: the id under which the client sends the input to the workers itself
SERVICE = "inference.GRPCInferenceService"
STREAM = "ModelStreamInfer"  # Triton's: streams of requests and of tokens
FINAL = "triton_final_response"  # a parameter of the last response to a request
METHODS = {
    "ServerLive": ("ServerLiveRequest", "ServerLiveResponse"),
    "ServerReady": ("ServerReadyRequest", "ServerReadyResponse"),
    "ModelReady": ("ModelReadyRequest", "ModelReadyResponse"),
    "ServerMetadata": ("ServerMetadataRequest", "ServerMetadataResponse"),
    "ModelMetadata": ("ModelMetadataRequest", "ModelMetadataResponse"),
    "ModelInfer": ("ModelInferRequest", "ModelInferResponse"),
    "ModelConfig": ("ModelConfigRequest", "ModelConfigResponse"),
}

_TENSOR = (
    ("name", 1, "string", ""),
    ("datatype", 2, "string", ""),
    ("shape", 3, "int64", "*"),
)
_TENSOR_WITH_DATA = _TENSOR + (
    ("parameters", 4, "InferParameter", "map"),
    ("contents", 5, "InferTensorContents", ""),
)
MESSAGES: Dict[str, Tuple[Fields, ...]] = {
    "ServerLiveRequest": (),
    "ServerLiveResponse": (("live", 1, "bool", ""),),
    "ServerReadyRequest": (),
    "ServerReadyResponse": (("ready", 1, "bool", ""),),
    "ModelReadyRequest": (("name", 1, "string", ""), ("version", 2, "string", "")),
    "ModelReadyResponse": (("ready", 1, "bool", ""),),
    "ServerMetadataRequest": (),
    "ServerMetadataResponse": (
        ("name", 1, "string", ""),
        ("version", 2, "string", ""),
        ("extensions", 3, "string", "*"),
    ),
    "ModelMetadataRequest": (("name", 1, "string", ""), ("version", 2, "string", "")),
    "ModelMetadataResponse": (
        ("name", 1, "string", ""),
        ("versions", 2, "string", "*"),
        ("platform", 3, "string", ""),
        ("inputs", 4, "ModelMetadataResponse.TensorMetadata", "*"),
        ("outputs", 5, "ModelMetadataResponse.TensorMetadata", "*"),
    ),
    "ModelMetadataResponse.TensorMetadata": _TENSOR,
    "InferParameter": (
        ("bool_param", 1, "bool", "one"),
        ("int64_param", 2, "int64", "one"),
        ("string_param", 3, "string", "one"),
        ("double_param", 4, "double", "one"),
        ("uint64_param", 5, "uint64", "one"),
    ),
    "InferTensorContents": (
        ("bool_contents", 1, "bool", "*"),
        ("int_contents", 2, "int32", "*"),
        ("int64_contents", 3, "int64", "*"),
        ("uint_contents", 4, "uint32", "*"),
        ("uint64_contents", 5, "uint64", "*"),
        ("fp32_contents", 6, "float", "*"),
        ("fp64_contents", 7, "double", "*"),
        ("bytes_contents", 8, "bytes", "*"),
    ),
    "ModelInferRequest": (
        ("model_name", 1, "string", ""),
        ("model_version", 2, "string", ""),
        ("id", 3, "string", ""),
        ("parameters", 4, "InferParameter", "map"),
        ("inputs", 5, "ModelInferRequest.InferInputTensor", "*"),
        ("outputs", 6, "ModelInferRequest.InferRequestedOutputTensor", "*"),
        ("raw_input_contents", 7, "bytes", "*"),
    ),
    "ModelInferRequest.InferInputTensor": _TENSOR_WITH_DATA,
    "ModelInferRequest.InferRequestedOutputTensor": (
        ("name", 1, "string", ""),
        ("parameters", 2, "InferParameter", "map"),
    ),
    "ModelInferResponse": (
        ("model_name", 1, "string", ""),
        ("model_version", 2, "string", ""),
        ("id", 3, "string", ""),
        ("parameters", 4, "InferParameter", "map"),
        ("outputs", 5, "ModelInferResponse.InferOutputTensor", "*"),
        ("raw_output_contents", 6, "bytes", "*"),
    ),
    "ModelInferResponse.InferOutputTensor": _TENSOR_WITH_DATA,
    "ModelStreamInferResponse": (("error_message", 1, "string", ""), ("infer_response", 2, "ModelInferResponse", "")),
    "ModelConfigRequest": (("name", 1, "string", ""), ("version", 2, "string", "")),
    "ModelConfigResponse": (("config", 1, "ModelConfig", ""),),
    "ModelConfig": (
        ("name", 1, "string", ""),
        ("platform", 2, "string", ""),
        ("max_batch_size", 4, "int32", ""),
        ("input", 5, "ModelInput", "*"),
        ("output", 6, "ModelOutput", "*"),
        ("dynamic_batching", 11, "ModelDynamicBatching", ""),
        ("backend", 17, "string", ""),
    ),
    "ModelDynamicBatching": (
        ("preferred_batch_size", 1, "int32", "*"),
        ("max_queue_delay_microseconds", 2, "uint64", ""),
    ),
    # data_type is an enum, which travels as an int32 does.
    "ModelInput": (("name", 1, "string", ""), ("data_type", 2, "int32", ""), ("dims", 4, "int64", "*")),
    "ModelOutput": (("name", 1, "string", ""), ("data_type", 2, "int32", ""), ("dims", 3, "int64", "*")),
}
CONFIG_TYPES = {"UINT8": 2, "INT8": 6, "INT32": 8, "INT64": 9, "FP16": 10, "FP32": 11}  # inference.DataType


@functools.lru_cache(maxsize=None)
def messages() -> Dict[str, Any]:
    """Return message name → message class; built on the first call."""
    return message_classes(PACKAGE, MESSAGES)


def parameter_value(parameter: Any) -> Any:
    """Return the Python value of an InferParameter, None where it is not set."""
    choice = parameter.WhichOneof(ONEOF)
    return getattr(parameter, choice) if choice else None


def set_parameter(parameter: Any, value: Any) -> None:
    """Set an InferParameter from a bool, int, float or str."""
    if isinstance(value, bool):
        parameter.bool_param = value
    elif isinstance(value, int):
        parameter.int64_param = value
    elif isinstance(value, float):
        parameter.double_param = value
    else:
        parameter.string_param = value
