"""A small client of a cluster; any Open Inference Protocol v2 client does as well."""

import json
import time
from types import TracebackType
from typing import Any, Dict, Iterator, Mapping, Optional, Sequence, Type, Union

from .answer import Answer, Parameter, Token, answer_from_parameters
from .arrays import Array
from .dtypes import DTYPES, dtype_named, name_of
from .errors import CheckFailed, CoformerError
from .listen import CHANNEL_OPTIONS
from .oip import ERROR_KEY, FINAL, METHODS, MODEL, SERVICE, STREAM, messages, parameter_value, set_parameter
from .sampling import GREEDY, Sampling
from .security import LOOPBACK, Security, open_channel, parse_address


class Client:
    """Connections to a central node and those that stand by for it. A context manager.

    A call that finds nobody at one address is made at the next; the one that answered is asked first from then on.

    Args:
        address: HOST:PORT, or several of them in the order in which they are tried.
        security: how it is protected; see `read_security`.
        timeout_s: how long a call may take.
    """

    def __init__(
        self, address: Union[str, Sequence[str]], security: Security = LOOPBACK, timeout_s: float = 30.0
    ) -> None:
        addresses = [address] if isinstance(address, str) else list(address)
        if not addresses:
            raise CoformerError("no address was given", "client", "name one HOST:PORT or more")
        for each in addresses:
            parse_address(each, security, "client")
        self._timeout_s, self._metadata = timeout_s, security.metadata()
        self._nodes = [_Node(each, open_channel(each, security, CHANNEL_OPTIONS)) for each in addresses]
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
        """Close the connections."""
        for node in self._nodes:
            node.channel.close()

    @property
    def address(self) -> str:
        """HOST:PORT of the node that is asked first."""
        return self._nodes[0].address

    def ready(self) -> bool:
        """Return whether the cluster would answer a request now; False too where nobody answers."""
        try:
            return bool(self._call("ServerReady", messages()["ServerReadyRequest"](), self._timeout_s).ready)
        except Unreachable:
            return False

    def infer(self, array: Array, deadline_ms: Optional[float] = None, request_id: str = "") -> Answer:
        """Return the cluster's answer to one input.

        Args:
            array: of the model's input dtype and shape, batch axis included; where the metadata says -1, of any size up
                to the largest.
            deadline_ms: give up after so long; None: the central node's own deadline decides.
            request_id: an id that the response repeats.

        Raises:
            CoformerError: the request is wrong, in the central node's words.
            CheckFailed: the cluster did not answer; says which members are missing and why.
        """
        return self._infer(array, deadline_ms, request_id, {})

    def generate(
        self, prompt: Array, max_tokens: int, sampling: Sampling = GREEDY, timeout_s: Optional[float] = None
    ) -> Iterator[Token]:
        """Yield the tokens that follow a prompt, each as it comes.

        Args:
            prompt: token numbers, int32 `(tokens,)`.
            max_tokens: of the text that is generated.
            sampling: how tokens are chosen.
            timeout_s: how long all of it may take; None: no limit.

        Raises:
            CoformerError: the request is wrong, in the central node's words.
            CheckFailed: the text ends here because the cluster could not go on.
        """
        import numpy

        request = messages()["ModelInferRequest"](model_name=MODEL)
        request.inputs.add(name="ids", datatype="INT32", shape=(1, len(prompt)))
        request.raw_input_contents.append(numpy.asarray(prompt, "<i4").tobytes())
        options = dict(sampling._asdict(), max_tokens=max_tokens)
        for name, value in options.items():
            if value is not None:
                set_parameter(request.parameters[name], value)
        return self._nodes[0].stream(request, timeout_s, self._metadata)

    def _infer(
        self, array: Array, deadline_ms: Optional[float], request_id: str, parameters: Mapping[str, Parameter]
    ) -> Answer:
        import numpy

        if self._input_name is None:
            metadata = self._call("ModelMetadata", messages()["ModelMetadataRequest"](name=MODEL), None)
            self._input_name = metadata.inputs[0].name
        request = messages()["ModelInferRequest"](model_name=MODEL, id=request_id)
        datatype = dtype_named(name_of(array.dtype), "client").oip
        request.inputs.add(name=self._input_name, datatype=datatype, shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
        for name, value in parameters.items():
            set_parameter(request.parameters[name], value)
        timeout_s = None if deadline_ms is None else deadline_ms / 1e3
        response = self._call("ModelInfer", request, timeout_s)
        if response.id != request_id:
            raise CheckFailed(
                "the answer is to request '{}', not '{}'".format(response.id, request_id), self.address, "ask again"
            )
        output = response.outputs[0]
        names = [dtype.name for dtype in DTYPES if dtype.oip == output.datatype]
        logits = numpy.frombuffer(response.raw_output_contents[0], names[0]).reshape(tuple(output.shape))
        told = {name: parameter_value(value) for name, value in response.parameters.items()}
        return answer_from_parameters(logits, told)

    def _call(self, method: str, request: Any, timeout_s: Optional[float]) -> Any:
        until = time.monotonic() + (timeout_s or self._timeout_s)
        for node in list(self._nodes):
            try:
                return node.call(method, request, until - time.monotonic(), self._metadata)
            except Unreachable as error:
                unreachable = error
                self._put_last(node)
                if error.timed_out:
                    break
        raise unreachable

    def _put_last(self, node: "_Node") -> None:
        self._nodes = [each for each in self._nodes if each is not node] + [node]


class _Node:
    """One central node: where it is, and the calls to it."""

    def __init__(self, address: str, channel: Any) -> None:
        self.address, self.channel = address, channel
        self._calls: Dict[str, Any] = {}

    def call(self, method: str, request: Any, timeout_s: float, metadata: Sequence[Any]) -> Any:
        """Return the response; raise an Unreachable where nobody answered, and in the node's words otherwise."""
        import grpc

        if method not in self._calls:
            self._calls[method] = self.channel.unary_unary(
                "/{}/{}".format(SERVICE, method),
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=messages()[METHODS[method][1]].FromString,
            )
        try:
            return self._calls[method](request, timeout=timeout_s, metadata=metadata)
        except grpc.RpcError as error:
            raise _error(error, self.address) from None

    def stream(self, request: Any, timeout_s: Optional[float], metadata: Sequence[Any]) -> Iterator[Token]:
        """Yield the tokens of one request; errors as in `call`."""
        import grpc
        import numpy

        call = self.channel.stream_stream(
            "/{}/{}".format(SERVICE, STREAM),
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=messages()["ModelStreamInferResponse"].FromString,
        )
        found = call(iter([request]), timeout=timeout_s, metadata=metadata)
        try:
            for each in found:
                if each.error_message:
                    raise _streamed_error(each.error_message, self.address)
                answer = each.infer_response
                told = {name: parameter_value(value) for name, value in answer.parameters.items()}
                number = int(numpy.frombuffer(answer.raw_output_contents[0], "<i4")[0])
                members = tuple(told["members"].split(","))
                yield Token(number, told[FINAL], members, told["degraded"], told["total_ms"])
                if told[FINAL]:
                    return
        except grpc.RpcError as error:
            raise _error(error, self.address) from None
        finally:
            found.cancel()


class Unreachable(CheckFailed):
    """Nobody answered at the address.

    Attributes:
        timed_out: within the time allowed, so that there is none left to ask another.
    """

    def __init__(self, what: str, where: str, mend: str, timed_out: bool) -> None:
        super().__init__(what, where, mend)
        self.timed_out = timed_out


def _streamed_error(message: str, address: str) -> CoformerError:
    """Return the error that a stream tells of: "[STATUS] words"."""
    status, _, words = message[1:].partition("] ")
    kind = CoformerError if status in ("INVALID_ARGUMENT", "NOT_FOUND") else CheckFailed
    return kind(words, "{}, {}".format(address, status), "see what the central node says")


def _error(error: Any, address: str) -> CoformerError:
    """Return the error that a failed call stands for, in the server's words if it sent any."""
    import grpc

    wrong = error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
    for key, value in error.trailing_metadata() or ():
        if key == ERROR_KEY:
            what, where, mend = json.loads(value.decode("utf-8"))
            return CoformerError(what, where, mend) if wrong else CheckFailed(what, where, mend)
    what = "{}: {}".format(error.code().name.lower().replace("_", " "), error.details())
    where, mend = address, "check that the central node runs at this address"
    timed_out = error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    if not timed_out and error.code() != grpc.StatusCode.UNAVAILABLE:
        return CheckFailed(what, where, mend)
    return Unreachable(what, where, mend, timed_out)
