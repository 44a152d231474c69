"""A small client of a central node; any Open Inference Protocol v2 client does as well."""

import json
from types import TracebackType
from typing import Any, Dict, Optional, Type

from .answer import Answer, answer_from_parameters
from .arrays import Array
from .dtypes import DTYPES, dtype_named
from .errors import CheckFailed, CoformerError
from .listen import CHANNEL_OPTIONS
from .oip import ERROR_KEY, METHODS, MODEL, SERVICE, messages, parameter_value
from .security import LOOPBACK, Security, open_channel, parse_address


class Client:
    """A connection to a central node. A context manager.

    Args:
        address: HOST:PORT.
        security: how it is protected; see `read_security`.
        timeout_s: how long a call may take.
    """

    def __init__(self, address: str, security: Security = LOOPBACK, timeout_s: float = 30.0) -> None:
        parse_address(address, security, "client")
        self.address, self._timeout_s = address, timeout_s
        self._channel = open_channel(address, security, CHANNEL_OPTIONS)
        self._metadata = security.metadata()
        self._calls: Dict[str, Any] = {}
        self._input_name: Optional[str] = None

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def ready(self) -> bool:
        """Return whether the cluster would answer a request now; False too where nobody listens."""
        try:
            return bool(self._call("ServerReady", messages()["ServerReadyRequest"](), self._timeout_s).ready)
        except Unreachable:
            return False

    def infer(self, array: Array, deadline_ms: Optional[float] = None, request_id: str = "") -> Answer:
        """Return the cluster's answer to one input.

        Args:
            array: of the model's input dtype and shape, batch axis included.
            deadline_ms: give up after so long; None: the central node's own deadline decides.
            request_id: an id that the response repeats.

        Raises:
            CoformerError: the request is wrong, in the central node's words.
            CheckFailed: the cluster did not answer; says which members are missing and why.
        """
        import numpy

        if self._input_name is None:
            metadata = self._call("ModelMetadata", messages()["ModelMetadataRequest"](name=MODEL), None)
            self._input_name = metadata.inputs[0].name
        request = messages()["ModelInferRequest"](model_name=MODEL, id=request_id)
        datatype = dtype_named(array.dtype.name, "client").oip
        request.inputs.add(name=self._input_name, datatype=datatype, shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
        timeout_s = None if deadline_ms is None else deadline_ms / 1e3
        response = self._call("ModelInfer", request, timeout_s)
        if response.id != request_id:
            raise CheckFailed(
                "the answer is to request '{}', not '{}'".format(response.id, request_id), self.address, "ask again"
            )
        output = response.outputs[0]
        names = [dtype.name for dtype in DTYPES if dtype.oip == output.datatype]
        logits = numpy.frombuffer(response.raw_output_contents[0], names[0]).reshape(tuple(output.shape))
        parameters = {name: parameter_value(value) for name, value in response.parameters.items()}
        return answer_from_parameters(logits, parameters)

    def _call(self, method: str, request: Any, timeout_s: Optional[float]) -> Any:
        import grpc

        if method not in self._calls:
            self._calls[method] = self._channel.unary_unary(
                "/{}/{}".format(SERVICE, method),
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=messages()[METHODS[method][1]].FromString,
            )
        try:
            return self._calls[method](request, timeout=timeout_s or self._timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise _error(error, self.address) from None


class Unreachable(CheckFailed):
    """Nobody answered at the address."""


def _error(error: Any, address: str) -> CoformerError:
    """Return the error that a failed call stands for, in the server's words if it sent any."""
    import grpc

    wrong = error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
    for key, value in error.trailing_metadata() or ():
        if key == ERROR_KEY:
            what, where, mend = json.loads(value.decode("utf-8"))
            return CoformerError(what, where, mend) if wrong else CheckFailed(what, where, mend)
    what = "{}: {}".format(error.code().name.lower().replace("_", " "), error.details())
    kind = Unreachable if error.code() == grpc.StatusCode.UNAVAILABLE else CheckFailed
    return kind(what, address, "check that the central node runs at this address")
