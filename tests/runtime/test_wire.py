"""Frames of the device edge survive the trip, and nothing but a whole frame is taken for one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coformer_runtime import wire
from coformer_runtime.dtypes import DTYPES, name_of
from coformer_runtime.errors import CheckFailed, CoformerError
from tests.runtime import bundles

BUILD = "0123456789abcdef" * 4
ARRAYS = st.tuples(
    st.sampled_from([dtype.name for dtype in DTYPES]),
    st.lists(st.integers(0, 4), max_size=8),
    st.integers(0, 2**32 - 1),
)


def array_of(drawn) -> np.ndarray:
    name, shape, seed = drawn
    values = np.random.default_rng(seed).integers(0, 100, shape)
    return values.astype(name)


def test_dtypes_are_called_what_numpy_calls_them_whatever_their_byte_order() -> None:
    for dtype in DTYPES:
        for order in "<>":
            assert name_of(np.dtype(dtype.name).newbyteorder(order)) == dtype.name


@given(ARRAYS, st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.integers(0, 65535))
def test_tensors_round_trip(drawn, request_id: int, budget_ms: int, member: int) -> None:
    array = array_of(drawn)
    frame = wire.tensor_frame(wire.REQUEST, request_id, BUILD, array, budget_ms, member)
    data = wire.encode_frame(frame)
    assert len(data) == 96 + array.nbytes
    again = wire.decode_frame(data)
    assert again == frame
    found = wire.frame_tensor(again)
    assert found.dtype == array.dtype and found.shape == array.shape
    assert np.array_equal(found, array)


@given(ARRAYS, st.data())
def test_damaged_headers_are_refused_or_are_frames(drawn, data: st.DataObject) -> None:
    whole = bytearray(wire.encode_frame(wire.tensor_frame(wire.FEATURES, 7, BUILD, array_of(drawn))))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, min(len(whole), 96) - 1))] = data.draw(st.integers(0, 255))
    frame, refused = None, None
    try:
        frame = wire.decode_frame(bytes(whole))
    except CoformerError as error:
        refused = error
    if frame is None:
        assert refused is not None and refused.what.startswith("malformed frame: ")
    else:
        assert wire.encode_frame(frame) == bytes(whole)


@given(st.binary(max_size=300))
def test_junk_is_refused(data: bytes) -> None:
    with pytest.raises(CoformerError, match="malformed frame"):
        wire.decode_frame(data)


@given(ARRAYS, st.data())
def test_truncated_and_padded_are_refused(drawn, data: st.DataObject) -> None:
    whole = wire.encode_frame(wire.tensor_frame(wire.REQUEST, 1, BUILD, array_of(drawn)))
    for wrong in (whole[: data.draw(st.integers(0, len(whole) - 1))], whole + b"\0"):
        with pytest.raises(CoformerError, match="malformed frame"):
            wire.decode_frame(wrong)


def test_size_cap() -> None:
    array = np.zeros(wire.MAX_FRAME_BYTES, np.uint8)
    with pytest.raises(CoformerError, match="8,388,704 bytes, the cap is 8,388,608"):
        wire.encode_frame(wire.tensor_frame(wire.REQUEST, 1, BUILD, array))
    with pytest.raises(CoformerError, match="the cap is 8,388,608"):
        wire.decode_frame(b"\0" * (wire.MAX_FRAME_BYTES + 1))


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (wire.Frame(9, 0, BUILD), "unknown kind 9"),
        (wire.Frame(wire.FAILURE, 0, BUILD), "status 0 in a frame of kind 4"),
        (wire.Frame(wire.HELLO, 0, BUILD, status=1), "status 1 in a frame of kind 1"),
        (wire.Frame(wire.REQUEST, 0, BUILD), "a frame of kind 2 with dtype None"),
        (wire.Frame(wire.HELLO, 0, BUILD, shape=(1,)), "text with a shape"),
        (wire.Frame(wire.REQUEST, 0, BUILD, b"12", "float32", (1,)), r"2 payload bytes for float32 of shape \[1\]"),
        (wire.Frame(wire.REQUEST, 0, "12"), "a frame of kind 2"),
        (wire.Frame(wire.HELLO, 0, "xy"), "the frame cannot be written"),
        (wire.Frame(wire.HELLO, -1, BUILD), "the frame cannot be written"),
    ],
)
def test_wrong_frames_are_not_written(frame: wire.Frame, message: str) -> None:
    with pytest.raises(CoformerError, match=message):
        wire.encode_frame(frame)


def test_failures_keep_their_words() -> None:
    told = CoformerError("what — ünïcode", "where", "mend")
    frame = wire.decode_frame(wire.encode_frame(wire.failure_frame(3, BUILD, wire.LATE, told, 2)))
    again = wire.frame_error(frame)
    assert isinstance(again, CheckFailed)
    assert (again.what, again.where, again.mend) == (told.what, told.where, told.mend)
    assert (frame.request_id, frame.status, frame.member) == (3, wire.LATE, 2)
    with pytest.raises(CoformerError, match="without what, where and mend"):
        wire.frame_error(frame._replace(payload=b"[1, 2, 3]"))


def test_hello_says_who_is_there() -> None:
    manifest = bundles.member_manifest(2, bundles.member_files(2))
    frame = wire.decode_frame(wire.encode_frame(wire.hello_frame(manifest, "0.1.0")))
    greeting = wire.frame_greeting(frame)
    assert greeting == wire.Greeting("desk", 2, manifest.build, manifest.input, manifest.output, "0.1.0")
    with pytest.raises(CoformerError, match="unknown key 'x'"):
        wire.frame_greeting(frame._replace(payload=frame.payload[:-1] + b', "x": 1}'))
    with pytest.raises(CoformerError, match="text that is not UTF-8"):
        wire.frame_greeting(frame._replace(payload=b"\xff"))
    with pytest.raises(CoformerError, match="a frame of kind 2 where a hello was due"):
        wire.frame_greeting(frame._replace(kind=wire.REQUEST))
