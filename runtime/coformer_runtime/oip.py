"""The messages of the Open Inference Protocol v2, built at run time.

Names, numbers and types are those of open_inference_grpc.proto (package inference). They are made in a
private descriptor pool, so that neither generated code nor another package's copy of the same messages
matters, and work on protobuf 3.19 to 7.
"""

import functools
from typing import Any, Dict, Tuple

PACKAGE = "inference"
MODEL = "coformer"  # the one model that a central node serves
ERROR_KEY = "coformer-error-bin"  # trailing metadata: what, where and mend of an error as JSON
SERVICE = "inference.GRPCInferenceService"
METHODS = {
    "ServerLive": ("ServerLiveRequest", "ServerLiveResponse"),
    "ServerReady": ("ServerReadyRequest", "ServerReadyResponse"),
    "ModelReady": ("ModelReadyRequest", "ModelReadyResponse"),
    "ServerMetadata": ("ServerMetadataRequest", "ServerMetadataResponse"),
    "ModelMetadata": ("ModelMetadataRequest", "ModelMetadataResponse"),
    "ModelInfer": ("ModelInferRequest", "ModelInferResponse"),
}

# Fields are (name, number, type, how): the type is a scalar of protobuf or a message; "*" repeats it, "map"
# maps strings to it, "one" puts it into the message's only oneof.
_TENSOR = (
    ("name", 1, "string", ""),
    ("datatype", 2, "string", ""),
    ("shape", 3, "int64", "*"),
)
_TENSOR_WITH_DATA = _TENSOR + (
    ("parameters", 4, "InferParameter", "map"),
    ("contents", 5, "InferTensorContents", ""),
)
MESSAGES: Dict[str, Tuple[Tuple[str, int, str, str], ...]] = {
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
}
ONEOF = "parameter_choice"


@functools.lru_cache(maxsize=None)
def messages() -> Dict[str, Any]:
    """Return message name → message class; built on the first call."""
    from google.protobuf import descriptor_pool, message_factory

    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file_descriptor().SerializeToString())
    descriptors = {name: pool.FindMessageTypeByName(PACKAGE + "." + name) for name in MESSAGES}
    if hasattr(message_factory, "GetMessageClass"):  # since protobuf 4.22; GetPrototype is gone in 5
        return {name: message_factory.GetMessageClass(found) for name, found in descriptors.items()}
    factory = message_factory.MessageFactory(pool)
    return {name: factory.GetPrototype(found) for name, found in descriptors.items()}


def file_descriptor() -> Any:
    """Return the FileDescriptorProto of MESSAGES."""
    from google.protobuf import descriptor_pb2

    proto = descriptor_pb2.FileDescriptorProto(name="open_inference_grpc.proto", package=PACKAGE, syntax="proto3")
    made: Dict[str, Any] = {}
    for name, fields in MESSAGES.items():
        parent, _, own = name.rpartition(".")
        message = made[parent].nested_type.add(name=own) if parent else proto.message_type.add(name=own)
        made[name] = message
        for field in fields:
            _add_field(message, name, field)
    return proto


def _add_field(message: Any, owner: str, field: Tuple[str, int, str, str]) -> None:
    from google.protobuf import descriptor_pb2

    kinds = descriptor_pb2.FieldDescriptorProto
    name, number, type_name, how = field
    added = message.field.add(name=name, number=number)
    added.label = kinds.LABEL_REPEATED if how in ("*", "map") else kinds.LABEL_OPTIONAL
    if how == "one":
        if not message.oneof_decl:
            message.oneof_decl.add(name=ONEOF)
        added.oneof_index = 0
    if type_name not in MESSAGES:
        added.type = getattr(kinds, "TYPE_" + type_name.upper())
        return
    added.type = kinds.TYPE_MESSAGE
    added.type_name = ".{}.{}".format(PACKAGE, type_name)
    if how == "map":
        entry_name = name.title().replace("_", "") + "Entry"
        entry = message.nested_type.add(name=entry_name)
        entry.options.map_entry = True
        _add_field(entry, entry_name, ("key", 1, "string", ""))
        _add_field(entry, entry_name, ("value", 2, type_name, ""))
        added.type_name = ".{}.{}.{}".format(PACKAGE, owner, entry_name)


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
