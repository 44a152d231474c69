"""The device edge: frames of a fixed 96-byte header and raw bytes, exchanged on one gRPC stream per worker.

    offset size field
         0    4 magic "CoF1" (the format's version is its last byte)
         4    1 kind: 1 hello, 2 request, 3 features, 4 failure, 5 cancel, 6 echo
         5    1 dtype code (dtypes.py; 0: the payload is text)
         6    1 rank, 0 to 8
         7    1 status (0 in all kinds but failure)
         8    8 request id
        16   32 build digest
        48    4 budget_ms: how long the sender will wait; 0: no limit. In features, waited_us: how long the request
                 waited for the engine
        52    4 compute_us: how long the engine ran
        56    2 member index of the sender, or 65535
        58    2 zero
        60    4 payload bytes
        64   32 eight axis sizes, 0 beyond the rank
        96      payload, row-major, little-endian

The conversation: the central node sends hello, the worker answers hello (its payload says who it is), then
every request is answered by exactly one features or failure with the same request id. A cancel has the id of a
request that nobody waits for any more; where it has not begun, failure "cancelled" answers it. Features and failures
whose id has the bit BROADCAST were asked for by a client, with a request frame of its own to the method Submit.
An echo, of any payload, is answered by an echo of none: central nodes with alternatives measure links by them.
No protobuf.
"""

import json
import struct
import sys
from typing import TYPE_CHECKING, Any, Dict, NamedTuple, Optional, Tuple

from .dtypes import DTYPES, Dtype, count_elements, dtype_named, name_of
from .errors import CheckFailed, CoformerError
from .manifest import Manifest, TensorSpec
from .manifest_fields import Fields, parse_json

if TYPE_CHECKING:
    from .arrays import Array

MAGIC = b"CoF1"
METHOD, SUBMIT = "/coformer.Worker/Exchange", "/coformer.Worker/Submit"
SERVICE, METHOD_NAME, SUBMIT_NAME = "coformer.Worker", "Exchange", "Submit"
HEADER = struct.Struct("<4sBBBBQ32sIIHHI8I")
MAX_FRAME_BYTES = 8 << 20
MAX_RANK = 8
NO_MEMBER = 65535
ANY_BUILD = "0" * 64  # of a client, which cannot know it
BROADCAST = 1 << 63  # set in the ids that clients choose; central nodes count from 1
MAX_BUDGET_MS = (1 << 32) - 1

HELLO, REQUEST, FEATURES, FAILURE, CANCEL, ECHO = 1, 2, 3, 4, 5, 6
BAD_REQUEST, OTHER_BUILD, LATE, ENGINE_FAILED, CANCELLED = 1, 2, 3, 4, 5
STATUSES = (BAD_REQUEST, OTHER_BUILD, LATE, ENGINE_FAILED, CANCELLED)
BUDGET = struct.Struct("<I")
BUDGET_AT = 48
MEND = "run the same coformer-runtime version on every device"


class Frame(NamedTuple):
    """One message on the device edge.

    Attributes:
        kind: HELLO, REQUEST, FEATURES, FAILURE, CANCEL or ECHO.
        request_id: chosen by the central node, 0 in a hello.
        build: the sender's build digest, 64 hex digits.
        payload: a tensor's bytes, or UTF-8 text where `dtype` is None.
        dtype: numpy's name of the element type, or None.
        shape: axis sizes, () for text.
        budget_ms: how long the sender will wait, 0 for no limit.
        status: why it failed, 0 unless `kind` is FAILURE.
        member: member index of the sender, NO_MEMBER where it does not matter.
        compute_us: engine time in microseconds.
        waited_us: of features, how long the request waited for the engine, in microseconds.
    """

    kind: int
    request_id: int
    build: str
    payload: bytes = b""
    dtype: Optional[str] = None
    shape: Tuple[int, ...] = ()
    budget_ms: int = 0
    status: int = 0
    member: int = NO_MEMBER
    compute_us: int = 0
    waited_us: int = 0


def encode_frame(frame: Frame) -> bytes:
    """Return the frame's bytes; raise a CoformerError for what the format cannot carry."""
    code = dtype_named(frame.dtype, "device edge").code if frame.dtype is not None else 0
    try:
        header = HEADER.pack(
            MAGIC,
            frame.kind,
            code,
            len(frame.shape),
            frame.status,
            frame.request_id,
            bytes.fromhex(frame.build),
            frame.waited_us if frame.kind == FEATURES else frame.budget_ms,
            frame.compute_us,
            frame.member,
            0,
            len(frame.payload),
            *(frame.shape + (0,) * (MAX_RANK - len(frame.shape))),
        )
    except (struct.error, ValueError) as error:
        raise CoformerError("the frame cannot be written ({})".format(error), "device edge", MEND) from error
    _check(frame, HEADER.size + len(frame.payload))
    return header + frame.payload


def decode_frame(data: bytes) -> Frame:
    """Return the frame that `data` holds; raise a CoformerError for anything but exactly one whole frame."""
    if len(data) > MAX_FRAME_BYTES:
        raise _malformed("{:,} bytes, the cap is {:,}".format(len(data), MAX_FRAME_BYTES))
    if len(data) < HEADER.size:
        raise _malformed("{} bytes, the header alone has {}".format(len(data), HEADER.size))
    (
        magic,
        kind,
        code,
        rank,
        status,
        request_id,
        build,
        budget_ms,
        compute_us,
        member,
        zero,
        size,
        *sizes,
    ) = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise _malformed("it begins with {!r}, not {!r}".format(magic, MAGIC))
    if zero != 0 or rank > MAX_RANK or any(sizes[rank:]):
        raise _malformed("reserved bytes are not zero")
    if size != len(data) - HEADER.size:
        raise _malformed("{:,} payload bytes, the header says {:,}".format(len(data) - HEADER.size, size))
    dtype = _dtype_coded(code)
    frame = Frame(
        kind,
        request_id,
        build.hex(),
        data[HEADER.size :],
        dtype.name if dtype else None,
        tuple(sizes[:rank]),
        0 if kind == FEATURES else budget_ms,
        status,
        member,
        compute_us,
        budget_ms if kind == FEATURES else 0,
    )
    _check(frame, len(data))
    return frame


def _dtype_coded(code: int) -> Optional[Dtype]:
    if code == 0:
        return None
    for dtype in DTYPES:
        if dtype.code == code:
            return dtype
    raise _malformed("unknown dtype code {}".format(code))


def _check(frame: Frame, size_bytes: int) -> None:
    if size_bytes > MAX_FRAME_BYTES:
        raise _malformed("{:,} bytes, the cap is {:,}".format(size_bytes, MAX_FRAME_BYTES))
    if frame.kind not in (HELLO, REQUEST, FEATURES, FAILURE, CANCEL, ECHO):
        raise _malformed("unknown kind {}".format(frame.kind))
    if (frame.kind == FAILURE) != (frame.status in STATUSES) or (frame.kind != FAILURE and frame.status):
        raise _malformed("status {} in a frame of kind {}".format(frame.status, frame.kind))
    if (frame.kind in (REQUEST, FEATURES)) != (frame.dtype is not None):
        raise _malformed("a frame of kind {} with dtype {}".format(frame.kind, frame.dtype))
    if frame.dtype is None:
        if frame.shape:
            raise _malformed("text with a shape")
        return
    expected = count_elements(frame.shape) * dtype_named(frame.dtype, "device edge").size_bytes
    if expected != len(frame.payload):
        raise _malformed(
            "{:,} payload bytes for {} of shape {}".format(len(frame.payload), frame.dtype, list(frame.shape))
        )


def _malformed(what: str) -> CoformerError:
    return CoformerError("malformed frame: " + what, "device edge", MEND)


def tensor_frame(
    kind: int,
    request_id: int,
    build: str,
    array: "Array",
    budget_ms: int = 0,
    member: int = NO_MEMBER,
    compute_us: int = 0,
    waited_us: int = 0,
) -> Frame:
    """Return a REQUEST or FEATURES frame that carries `array` (any shape of at most 8 axes)."""
    if sys.byteorder == "big":
        array = array.byteswap()
    return Frame(
        kind,
        request_id,
        build,
        array.tobytes(),
        name_of(array.dtype),
        tuple(array.shape),
        budget_ms,
        0,
        member,
        min(compute_us, MAX_BUDGET_MS),
        min(waited_us, MAX_BUDGET_MS),
    )


def with_budget(data: bytes, budget_ms: int) -> bytes:
    """Return an encoded frame with another budget."""
    return data[:BUDGET_AT] + BUDGET.pack(budget_ms) + data[BUDGET_AT + BUDGET.size :]


def frame_tensor(frame: Frame) -> "Array":
    """Return the array that a REQUEST or FEATURES frame carries, read-only and without a copy."""
    import numpy

    array = numpy.frombuffer(frame.payload, dtype=frame.dtype).reshape(frame.shape)
    return array.byteswap() if sys.byteorder == "big" else array


def failure_frame(request_id: int, build: str, status: int, error: CoformerError, member: int) -> Frame:
    """Return the FAILURE frame that says what, where and mend of `error`."""
    text = json.dumps([error.what, error.where, error.mend]).encode("ascii")
    return Frame(FAILURE, request_id, build, text, status=status, member=member)


def frame_error(frame: Frame) -> CoformerError:
    """Return the error that a FAILURE frame tells of, as a CheckFailed."""
    parts = parse_json(_text(frame), "device edge")
    if not isinstance(parts, list) or len(parts) != 3 or not all(isinstance(part, str) for part in parts):
        raise _malformed("a failure without what, where and mend")
    return CheckFailed(*parts)


class Greeting(NamedTuple):
    """What a worker says of itself in its hello; `shapes` are those that it takes besides that of `input`."""

    device: str
    member: int
    build: str
    input: TensorSpec
    output: TensorSpec
    runtime: str
    shapes: Tuple[Tuple[int, ...], ...] = ()


def hello_frame(manifest: Manifest, runtime: str) -> Frame:
    """Return the hello of the node that serves `manifest` with this `runtime` version."""
    said: Dict[str, Any] = {
        "device": manifest.device,
        "runtime": runtime,
        "input": manifest.input._asdict(),
        "output": manifest.output._asdict(),
    }
    shapes = further_shapes(manifest)
    if shapes:
        said["shapes"] = shapes
    return Frame(HELLO, 0, manifest.build, json.dumps(said).encode("ascii"), member=manifest.member)


def further_shapes(manifest: Manifest) -> Tuple[Tuple[int, ...], ...]:
    """Return the shapes of input that a member takes besides its own graph's."""
    return () if manifest.profiles is None else tuple(spec.shape for spec in manifest.profiles.graphs)


def frame_greeting(frame: Frame) -> Greeting:
    """Return what a HELLO frame says; raise a CoformerError where it says it wrongly."""
    if frame.kind != HELLO:
        raise _malformed("a frame of kind {} where a hello was due".format(frame.kind))
    where = "device edge, hello"
    fields = Fields(parse_json(_text(frame), where), where, "", MEND)
    tensors = []
    for key in ("input", "output"):
        part = fields.section(key)
        tensors.append(TensorSpec(part.text("name"), part.dtype("dtype"), part.shape("shape", MAX_RANK)))
        part.finish()
    device, runtime = fields.text("device"), fields.text("runtime")
    shapes = fields.shapes("shapes", MAX_RANK) if fields.has("shapes") else ()
    greeting = Greeting(device, frame.member, frame.build, tensors[0], tensors[1], runtime, shapes)
    fields.finish()
    return greeting


def _text(frame: Frame) -> str:
    try:
        return frame.payload.decode("utf-8")
    except UnicodeDecodeError:
        raise _malformed("text that is not UTF-8") from None
