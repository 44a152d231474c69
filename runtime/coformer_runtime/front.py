"""The central node's face to clients: Open Inference Protocol v2 over gRPC."""

import contextlib
import json
import threading
import time
from typing import TYPE_CHECKING, Any, Callable, Dict, Optional, Tuple

from . import __version__, wire
from .answer import Answer, parameters_from_answer
from .arrays import Array
from .batching import Batcher
from .central import CalledOff, Load, Unanswered
from .dtypes import count_elements, dtype_named, name_of
from .errors import CheckFailed, CoformerError
from .exchange import MAX_STREAMS
from .failures import report
from .fitting import Fitted, check_numbers, check_shape, fit, open_shape, shaped_by
from .front_stream import STREAMS, StreamFront
from .health import SERVICE as HEALTH
from .health import Health
from .listen import open_server, serve_until_stopped
from .manifest import Manifest, TensorSpec
from .manifest_profiles import batches_of, shapes_of
from .members import BUSY, LATE
from .oip import (
    BROADCAST_KEY,
    CONFIG_TYPES,
    ERROR_KEY,
    METHODS,
    MODEL,
    SERVICE,
    STREAM,
    messages,
    parameter_value,
    set_parameter,
)
from .submit import MAX_SUBMITTED, submit_methods

if TYPE_CHECKING:
    from .observe import Answering
    from .trace import Tracer

CONCURRENCY = 32  # inferences at a time
CALLS = (
    CONCURRENCY + STREAMS + MAX_STREAMS + MAX_SUBMITTED + 16
)  # the rest is for health, metadata, and requests that are refused
SERVER = "coformer-node"
PLATFORM = "coformer"


class UnknownModel(CoformerError):
    """The request names a model or version that is not served here."""


class Crowded(CheckFailed):
    """More requests at a time than are admitted."""


class Front:
    """Turns protocol messages into inputs for a Central and its answers into messages."""

    def __init__(
        self, central: "Answering", tracer: "Optional[Tracer]" = None, batcher: Optional[Batcher] = None
    ) -> None:
        self._central, self._manifest, self._tracer, self._batcher = central, central.manifest, tracer, batcher
        self._admitted = threading.BoundedSemaphore(CONCURRENCY)
        self.versions = central.versions()
        taken, given = self._manifest.input, self._manifest.answer
        told = open_shape(self._manifest)
        self._input = TensorSpec(taken.name, taken.dtype, told)
        self._output = TensorSpec(given.name, given.dtype, told[:1] + given.shape[1:])

    def methods(self) -> Dict[str, Any]:
        """Return method name → gRPC handler. Bytes are parsed inside it, so that junk gets a clear answer."""
        import grpc

        answers: Dict[str, Callable[[Any, Any], Any]] = {
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            "ServerMetadata": self.server_metadata,
            "ModelReady": self.model_ready,
            "ModelMetadata": self.model_metadata,
            "ModelInfer": self.model_infer,
            "ModelConfig": self.model_config,
        }
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(answering(METHODS[name][0], method))
            for name, method in answers.items()
        }
        stream = StreamFront(self._central, _parsed, self._check_model, told_of, crowded)
        handlers[STREAM] = grpc.stream_stream_rpc_method_handler(stream.converse)
        return handlers

    def server_live(self, request: Any, context: Any) -> Any:
        """Say that this process is alive."""
        return messages()["ServerLiveResponse"](live=True)

    def server_ready(self, request: Any, context: Any) -> Any:
        """Say whether a request would be answered now."""
        return messages()["ServerReadyResponse"](ready=self._central.ready())

    def server_metadata(self, request: Any, context: Any) -> Any:
        """Say what server this is."""
        return messages()["ServerMetadataResponse"](name=SERVER, version=__version__)

    def model_ready(self, request: Any, context: Any) -> Any:
        """Say whether a request to the model would be answered now."""
        self._check_model(request.name, request.version)
        return messages()["ModelReadyResponse"](ready=self._central.ready())

    def model_metadata(self, request: Any, context: Any) -> Any:
        """Say what goes in and what comes out; the version is the build's digest."""
        self._check_model(request.name, request.version)
        response = messages()["ModelMetadataResponse"](name=MODEL, versions=self.versions, platform=PLATFORM)
        for field, spec in ((response.inputs, self._input), (response.outputs, self._output)):
            field.add(name=spec.name, datatype=dtype_named(spec.dtype, "manifest").oip, shape=spec.shape)
        return response

    def model_config(self, request: Any, context: Any) -> Any:
        """Say the same in Triton's words, for its perf_analyzer; where there are batches, of one sample."""
        self._check_model(request.name, request.version)
        most = batches_of(self._manifest)[-1]
        response = messages()["ModelConfigResponse"]()
        config = response.config
        config.name, config.platform, config.backend, config.max_batch_size = (
            MODEL,
            PLATFORM,
            PLATFORM,
            most if most > 1 else 0,
        )
        if self._batcher is not None:
            config.dynamic_batching.preferred_batch_size.extend(batches_of(self._manifest))
            wait_ms = self._central.options.batch_wait_ms or 0.0
            config.dynamic_batching.max_queue_delay_microseconds = int(wait_ms * 1e3)
        for field, spec in ((config.input, self._input), (config.output, self._output)):
            data_type = CONFIG_TYPES[dtype_named(spec.dtype, "manifest").oip]
            field.add(name=spec.name, data_type=data_type, dims=spec.shape[1:] if most > 1 else spec.shape)
        return response

    def model_infer(self, request: Any, context: Any) -> Any:
        """Answer one input within the deadline and the caller's own."""
        began = time.monotonic()
        try:
            return self._infer(request, context)
        except Exception as error:
            status = refusal_code(error).name
            self._central.observed.refused(status)
            if self._tracer is not None:
                self._tracer.refused(context.invocation_metadata(), request.id, status, time.monotonic() - began)
            raise

    def _infer(self, request: Any, context: Any) -> Any:
        self._check_model(request.model_name, request.model_version)
        array, broadcast = array_from_request(request, self._manifest), broadcast_of(request)
        fitted = self._fitted(array, broadcast)
        if not self._admitted.acquire(blocking=False):
            raise crowded("{} requests are being answered".format(CONCURRENCY))
        try:
            answer = self._answer(fitted, context, broadcast, request.model_version)
        finally:
            self._admitted.release()
        if self._tracer is not None:
            self._tracer.answered(context.invocation_metadata(), request.id, answer)
        return self._response(request.id, answer)

    def _answer(self, fitted: Fitted, context: Any, broadcast: Optional[int], version: str) -> Answer:
        budget_s, on_gone = context.time_remaining(), context.add_callback
        named = bool(version) and len(self.versions) > 1  # requests that are joined are answered by one build
        if self._batcher is not None and broadcast is None and not named:
            return self._batcher.answer(fitted, budget_s, on_gone)
        load = Load(samples=fitted.samples)
        answer = self._central.serving(version).answer(fitted.array, budget_s, on_gone, broadcast, load=load)
        return answer._replace(logits=answer.logits[: fitted.samples], shaped=shaped_by(self._manifest, fitted))

    def _fitted(self, array: Array, broadcast: Optional[int]) -> Fitted:
        """Return the input in one of the bundle's shapes; what clients send to workers has to have one itself."""
        if broadcast is None:
            return fit(self._manifest, array, self._central.options.truncate)
        shapes = shapes_of(self._manifest)
        if array.shape not in shapes:
            raise CoformerError(
                "the shape is {}".format(list(array.shape)),
                "request, sent to every device",
                "send one of {}".format(", ".join(str(list(shape)) for shape in shapes)),
            )
        return Fitted(array, len(array), None if len(shapes) == 1 else array.shape[-1])

    def _check_model(self, name: str, version: str) -> None:
        if name != MODEL or version not in ("", *self.versions):
            raise UnknownModel(
                "model '{}' version '{}' is not served".format(name, version),
                "request",
                "ask for model '{}', version '{}' or none".format(MODEL, "' or '".join(self.versions)),
            )

    def _response(self, request_id: str, answer: Answer) -> Any:
        version = answer.build[:12]
        response = messages()["ModelInferResponse"](model_name=MODEL, model_version=version, id=request_id)
        for name, value in parameters_from_answer(answer).items():
            set_parameter(response.parameters[name], value)
        oip = dtype_named(name_of(answer.logits.dtype), "answer").oip
        response.outputs.add(name=self._manifest.answer.name, datatype=oip, shape=answer.logits.shape)
        response.raw_output_contents.append(answer.logits.tobytes())
        return response


def answering(request_type: str, method: Callable[[Any, Any], Any]) -> Callable[[bytes, Any], bytes]:
    """Return the handler that parses, calls `method` and serialises; errors become gRPC statuses.

    INVALID_ARGUMENT or NOT_FOUND: the request is wrong. UNAVAILABLE or DEADLINE_EXCEEDED: too few members.
    RESOURCE_EXHAUSTED: too many requests at a time. CANCELLED: nobody is there to read the answer.
    INTERNAL: our fault; the client gets an id, the log has the rest.
    """

    def handle(data: bytes, context: Any) -> bytes:
        try:
            result: bytes = method(_parsed(request_type, data), context).SerializeToString()
            return result
        except Exception as error:  # noqa: BLE001 - no exception text reaches a client
            code = refusal_code(error)
            told = _told(error)
        context.set_trailing_metadata(((ERROR_KEY, json.dumps([told.what, told.where, told.mend]).encode()),))
        context.abort(code, str(told))
        raise told

    return handle


def _parsed(request_type: str, data: bytes) -> Any:
    from google.protobuf.message import DecodeError

    try:
        return messages()[request_type].FromString(data)
    except DecodeError:
        raise CoformerError(
            "the bytes are not a {}".format(request_type),
            "request",
            "send messages of the Open Inference Protocol v2",
        ) from None


def refusal_code(error: Exception) -> Any:
    """Return the gRPC status of a request that this error ended; INTERNAL for what is nobody's business."""
    from grpc import StatusCode

    if isinstance(error, Unanswered):
        codes = {LATE: StatusCode.DEADLINE_EXCEEDED, BUSY: StatusCode.RESOURCE_EXHAUSTED}
        return codes.get(error.cause, StatusCode.UNAVAILABLE)
    if isinstance(error, CalledOff):
        return StatusCode.CANCELLED
    if isinstance(error, Crowded):
        return StatusCode.RESOURCE_EXHAUSTED
    if isinstance(error, UnknownModel):
        return StatusCode.NOT_FOUND
    if isinstance(error, CheckFailed) or not isinstance(error, CoformerError):
        return StatusCode.INTERNAL
    return StatusCode.INVALID_ARGUMENT


def _told(error: Exception) -> CoformerError:
    """Return what a client is told of an error."""
    if isinstance(error, CoformerError) and refusal_code(error).name != "INTERNAL":
        return error
    return _masked(error)


def told_of(error: Exception) -> Tuple[str, CoformerError]:
    """Return the name of the gRPC status that an error stands for, and what a client is told."""
    return str(refusal_code(error).name), _told(error)


def crowded(what: str) -> Crowded:
    """Return the error for more at a time than is admitted."""
    return Crowded(what, "central node", "send it again in a moment")


def _masked(error: Exception) -> CoformerError:
    incident = report("request", error)
    return CheckFailed(
        "internal error {}".format(incident), "central node", "look for this id in the central node's log"
    )


def array_from_request(request: Any, manifest: Manifest) -> Array:
    """Return the input tensor of a ModelInferRequest, read-only.

    Raises:
        CoformerError: a name, dtype, shape, size or token number that is not the manifest's.
    """
    array = _array_from_request(request, manifest)
    check_numbers(manifest, array, "request, input '{}'".format(manifest.input.name))
    return array


def _array_from_request(request: Any, manifest: Manifest) -> Array:
    import numpy

    spec = manifest.input
    if len(request.inputs) != 1 or request.inputs[0].name != spec.name:
        raise CoformerError(
            "the inputs are {}".format([tensor.name for tensor in request.inputs]),
            "request",
            "send exactly one input, '{}'".format(spec.name),
        )
    tensor, dtype = request.inputs[0], dtype_named(spec.dtype, "manifest")
    where = "request, input '{}'".format(spec.name)
    for output in request.outputs:
        if output.name != manifest.answer.name:
            raise CoformerError(
                "output '{}' does not exist".format(output.name),
                "request",
                "ask for '{}'".format(manifest.answer.name),
            )
    if tensor.datatype != dtype.oip:
        raise CoformerError("the datatype is '{}'".format(tensor.datatype), where, "send {}".format(dtype.oip))
    shape = tuple(tensor.shape)
    check_shape(manifest, shape, where)
    raw = _raw_contents(request, where)
    if raw is None:
        return _typed_contents(tensor, manifest, where)
    expected = count_elements(shape) * dtype.size_bytes
    if len(raw) != expected:
        raise CoformerError("{:,} raw bytes".format(len(raw)), where, "send {:,} bytes".format(expected))
    return numpy.frombuffer(raw, numpy.dtype(dtype.name).newbyteorder("<")).reshape(shape)


def broadcast_of(request: Any) -> Optional[int]:
    """Return the id under which the client sends the input to the workers itself, None where it does not."""
    if BROADCAST_KEY not in request.parameters:
        return None
    chosen = parameter_value(request.parameters[BROADCAST_KEY])
    if isinstance(chosen, bool) or not isinstance(chosen, int) or not 0 < chosen < wire.BROADCAST:
        raise CoformerError(
            "it is {!r}".format(chosen),
            "request, parameter '{}'".format(BROADCAST_KEY),
            "send 63 random bits as int64_param",
        )
    return wire.BROADCAST | chosen


def _raw_contents(request: Any, where: str) -> Optional[bytes]:
    """Return the raw bytes of the only input, or None for typed contents; both or too many are errors."""
    if not request.raw_input_contents:
        return None
    if len(request.raw_input_contents) != 1 or request.inputs[0].HasField("contents"):
        raise CoformerError(
            "{} raw contents for one input{}".format(
                len(request.raw_input_contents),
                " with contents" if request.inputs[0].HasField("contents") else "",
            ),
            where,
            "send either one raw_input_contents or contents",
        )
    raw: bytes = request.raw_input_contents[0]
    return raw


def _typed_contents(tensor: Any, manifest: Manifest, where: str) -> Array:
    import numpy

    spec = manifest.input
    field = dtype_named(spec.dtype, "manifest").contents
    filled = [found.name for found, _ in tensor.contents.ListFields()]
    if not field or filled != [field]:
        raise CoformerError(
            "the data is in {}".format(filled or "no field"),
            where,
            "send it in {}".format("contents." + field if field else "raw_input_contents"),
        )
    values = getattr(tensor.contents, field)
    shape = tuple(tensor.shape)
    expected = count_elements(shape)
    if len(values) != expected:
        raise CoformerError("{:,} values".format(len(values)), where, "send {:,} values".format(expected))
    wide = numpy.array(values)
    array = wide.astype(spec.dtype)
    if array.dtype.kind in "iu" and not (array == wide).all():
        raise CoformerError("values that do not fit {}".format(spec.dtype), where, "send values in its range")
    return array.reshape(shape)


def open_front(
    central: "Answering", listen: str, tracer: "Optional[Tracer]" = None, batcher: Optional[Batcher] = None
) -> Tuple[Any, str]:
    """Start to serve clients at `listen`, all their requests through `batcher` if there is one.

    Returns:
        The server and its address.
    """
    options = central.options
    health = Health((SERVICE, MODEL), central.ready)
    services = {SERVICE: Front(central, tracer, batcher).methods(), HEALTH: health.methods()}
    if central.stood_by:
        exchange = central.exchange()
        services[wire.SERVICE] = dict(exchange.methods(), **(submit_methods(exchange) if options.broadcast else {}))
    return open_server(services, listen, options.security, CALLS, HEALTH)


def serve_front(central: "Answering", listen: str, exit_with_stdin: bool, tracer: "Optional[Tracer]" = None) -> None:
    """Serve clients at `listen` until this process is told to stop."""
    wait_ms = central.options.batch_wait_ms
    with contextlib.ExitStack() as stack:
        batcher = None if wait_ms is None else stack.enter_context(Batcher(central, wait_ms / 1e3))
        server, address = open_front(central, listen, tracer, batcher)
        serve_until_stopped(server, address, exit_with_stdin)
