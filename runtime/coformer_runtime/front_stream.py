"""Generation for clients: Triton's ModelStreamInfer, a stream of requests with a stream of tokens for each.

A request holds the prompt, INT32 `ids` of shape [1, n] or [n], and the parameters of `PARAMETERS`. Each response
holds one token, INT32 `token` [1, 1], with the parameters `members`, `degraded`, `total_ms` and Triton's
`triton_final_response`, true at the last. What goes wrong comes as `error_message`, which begins with the name of a
gRPC status in brackets, and ends that request, not the stream.
"""

import threading
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, Optional

from .answer import Token
from .arrays import Array
from .errors import CoformerError
from .generation import generate
from .oip import FINAL, MODEL, messages, parameter_value, set_parameter
from .sampling import Sampling

if TYPE_CHECKING:
    from .observe import Answering

STREAMS = 16  # that are open
GENERATIONS = 4  # at a time: members keep as many sessions
TOKEN = "token"
TRITON = "triton_"  # parameters of Triton's own clients, which may be there
PARAMETERS: Dict[str, Callable[[Any], Any]] = {
    "max_tokens": int,
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "seed": int,
}


class StreamFront:
    """The handler of ModelStreamInfer.

    Args:
        central: what answers.
        parsed: message type and bytes → message.
        check_model: raises for a model or version that is not served.
        refused: error → (name of a gRPC status, what the client is told).
        crowded: makes the error for more generations than are admitted.
    """

    def __init__(
        self,
        central: "Answering",
        parsed: Callable[[str, bytes], Any],
        check_model: Callable[[str, str], None],
        refused: Callable[[Exception], Any],
        crowded: Callable[[str], Exception],
    ) -> None:
        self._central = central
        self._parsed, self._check_model = parsed, check_model
        self._refused, self._crowded = refused, crowded
        self._streams = threading.BoundedSemaphore(STREAMS)
        self._generations = threading.BoundedSemaphore(GENERATIONS)

    def converse(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """Answer one client's requests, one after the other."""
        if not self._streams.acquire(blocking=False):
            yield self._error(self._crowded("{} streams are open".format(STREAMS)), "")
            return
        try:
            reader = Reader(context)
            for data in requests:
                for response in self._answered(data, reader):
                    yield response
        finally:
            self._streams.release()

    def _answered(self, data: bytes, reader: "Reader") -> Iterator[bytes]:
        request_id, admitted = "", False
        try:
            request = self._parsed("ModelInferRequest", data)
            request_id = request.id
            self._check_model(request.model_name, request.model_version)
            prompt, parameters = prompt_of(request, self._central.manifest.input.name), parameters_of(request)
            admitted = self._generations.acquire(blocking=False)
            if not admitted:
                raise self._crowded("{} texts are being generated".format(GENERATIONS))
            max_tokens = parameters.pop("max_tokens")
            central = self._central.serving(request.model_version)  # for the whole text: members keep its tokens
            for token in generate(central, prompt, max_tokens, Sampling(**parameters), reader.on_gone):
                yield self._response(request_id, token, central.manifest.build[:12])
        except Exception as error:  # noqa: BLE001 - told as the protocol wants it, without text of other exceptions
            yield self._error(error, request_id)
        finally:
            reader.forget()
            if admitted:
                self._generations.release()

    def _response(self, request_id: str, token: Token, version: str) -> bytes:
        import numpy

        made = messages()["ModelStreamInferResponse"]()
        response = made.infer_response
        response.model_name, response.model_version, response.id = MODEL, version, request_id
        told = {"members": ",".join(token.members), "degraded": token.degraded, "total_ms": token.total_ms}
        for name, value in dict(told, **{FINAL: token.last}).items():
            set_parameter(response.parameters[name], value)
        response.outputs.add(name=TOKEN, datatype="INT32", shape=(1, 1))
        response.raw_output_contents.append(numpy.array([token.number], "<i4").tobytes())
        data: bytes = made.SerializeToString()
        return data

    def _error(self, error: Exception, request_id: str) -> bytes:
        status, told = self._refused(error)
        self._central.observed.refused(status)
        made = messages()["ModelStreamInferResponse"](error_message="[{}] {}".format(status, told))
        made.infer_response.id = request_id
        data: bytes = made.SerializeToString()
        return data


class Reader:
    """Whoever reads a stream; when he is gone, the round that is under way then is called off.

    gRPC keeps every callback until the stream ends, and a callback keeps its round: a stream has one, not one a token.

    Args:
        context: gRPC's, of the stream.
    """

    def __init__(self, context: Any) -> None:
        self._lock = threading.Lock()
        self._call_off: Optional[Callable[[], None]] = None
        self._gone = False
        if not context.add_callback(self._leave):
            self._gone = True

    def on_gone(self, call_off: Callable[[], None]) -> bool:
        """Call `call_off`, in place of the one before, when the reader is gone; return False where he is."""
        with self._lock:
            self._call_off = call_off
            return not self._gone

    def forget(self) -> None:
        """Keep nothing: no round is under way."""
        with self._lock:
            self._call_off = None

    def _leave(self) -> None:
        with self._lock:
            self._gone, call_off = True, self._call_off
        if call_off is not None:
            call_off()


def prompt_of(request: Any, name: str) -> Array:
    """Return the prompt of a request, int32 `(tokens,)`; raise a CoformerError where there is none."""
    import numpy

    if len(request.inputs) != 1 or request.inputs[0].name != name:
        raise CoformerError(
            "the inputs are {}".format([tensor.name for tensor in request.inputs]),
            "request",
            "send exactly one input, '{}'".format(name),
        )
    tensor = request.inputs[0]
    where, shape = "request, input '{}'".format(name), tuple(tensor.shape)
    if tensor.datatype != "INT32" or len(shape) not in (1, 2) or (len(shape) == 2 and shape[0] != 1):
        raise CoformerError(
            "it is {} of shape {}".format(tensor.datatype, list(shape)), where, "send INT32 of shape [1, tokens]"
        )
    if request.raw_input_contents:
        data = b"".join(request.raw_input_contents)
        prompt = numpy.frombuffer(data[: len(data) // 4 * 4], "<i4")
        whole = len(data) == 4 * shape[-1]
    else:
        prompt = numpy.array(list(tensor.contents.int_contents), numpy.int32)
        whole = len(prompt) == shape[-1]
    if not whole:
        raise CoformerError("the shape is {}, the data another".format(list(shape)), where, "send all of the tokens")
    return prompt


def parameters_of(request: Any) -> Dict[str, Any]:
    """Return the request's parameters with defaults; raise a CoformerError for one that is unknown or no number."""
    found: Dict[str, Any] = {"max_tokens": 1}
    for name in request.parameters:
        if name.startswith(TRITON):
            continue
        where = "request, parameter '{}'".format(name)
        if name not in PARAMETERS:
            raise CoformerError("it is not known", where, "known are {}".format(", ".join(sorted(PARAMETERS))))
        value = parameter_value(request.parameters[name])
        try:
            found[name] = PARAMETERS[name](value)
        except (TypeError, ValueError):
            raise CoformerError("it is '{}'".format(value), where, "send a number") from None
    return found
