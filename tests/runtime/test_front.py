"""Clients that speak Open Inference Protocol: metadata, answers, and a clear status for every wrong request."""

import json
import threading
import time
from typing import Any, Callable, Iterator, List, Tuple

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coformer_runtime.client import Client
from coformer_runtime.errors import CheckFailed, CoformerError
from coformer_runtime.front import CONCURRENCY, open_front
from coformer_runtime.oip import METHODS, SERVICE, messages, parameter_value
from tests.runtime import bundles
from tests.runtime.nodes import EVERYONE, PIXELS, gathering, serving, settled


@pytest.fixture(scope="module")
def address(cluster_dirs: List[str]) -> Iterator[str]:
    with serving(cluster_dirs[1]) as hall, serving(cluster_dirs[2]) as desk, gathering(
        cluster_dirs[0], [hall, desk]
    ) as central:
        server, address = open_front(central, "127.0.0.1:0")
        yield address
        server.stop(0).wait()


def call_raw(address: str, method: str, data: bytes, timeout_s: float = 10) -> bytes:
    with grpc.insecure_channel(address) as channel:
        answer: bytes = channel.unary_unary("/{}/{}".format(SERVICE, method))(data, timeout=timeout_s)
        return answer


def call(address: str, method: str, **fields: Any) -> Any:
    request, response = METHODS[method]
    data = call_raw(address, method, messages()[request](**fields).SerializeToString())
    return messages()[response].FromString(data)


def infer_request() -> Any:
    request = messages()["ModelInferRequest"](model_name="coformer", id="seven")
    request.inputs.add(name="pixels", datatype="UINT8", shape=[1, 1, 4, 4])
    request.raw_input_contents.append(PIXELS.tobytes())
    return request


def test_server_and_model(address: str) -> None:
    assert call(address, "ServerLive").live
    assert call(address, "ServerReady").ready
    assert call(address, "ModelReady", name="coformer").ready
    assert call(address, "ServerMetadata").name == "coformer-node"
    metadata = call(address, "ModelMetadata", name="coformer", version="b" * 12)
    assert list(metadata.versions) == ["b" * 12]
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs] == [("pixels", "UINT8", [1, 1, 4, 4])]
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.outputs] == [("logits", "FP32", [1, 5])]


def test_model_config_in_tritons_words(address: str) -> None:
    config = call(address, "ModelConfig", name="coformer").config
    assert (config.name, config.backend, config.max_batch_size) == ("coformer", "coformer", 0)
    assert [(t.name, t.data_type, list(t.dims)) for t in config.input] == [("pixels", 2, [1, 1, 4, 4])]
    assert [(t.name, t.data_type, list(t.dims)) for t in config.output] == [("logits", 11, [1, 5])]
    data = messages()["ModelConfigResponse"](config=config).SerializeToString()
    assert data.startswith(b"\x0a") and b"\x8a\x01\x08coformer" in data  # field 17: the backend


def test_health_of_the_cluster(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert check(b"", timeout=5) == check(b"\x0a\x08coformer", timeout=5) == b"\x08\x01"


def test_crowd_is_refused_at_once_and_health_is_not(cluster_dirs: List[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """More requests than are admitted: the rest hears so at once, while health is still told."""
    with gathering(cluster_dirs[0], [], min_members=1) as central:
        server, address = open_front(central, "127.0.0.1:0")
        go, really, begun = threading.Event(), central.answer, []

        def hesitant(*arguments: Any, **options: Any) -> Any:
            begun.append(time.monotonic())
            assert go.wait(10)
            return really(*arguments, **options)

        monkeypatch.setattr(central, "answer", hesitant)
        with grpc.insecure_channel(address) as channel:
            infer = channel.unary_unary("/{}/ModelInfer".format(SERVICE))
            data = infer_request().SerializeToString()
            first = [infer.future(data, timeout=20) for _ in range(CONCURRENCY)]
            settled(lambda: len(begun) == CONCURRENCY)
            more = [infer.future(data, timeout=20) for _ in range(5)]
            refused = [call.exception(10) for call in more]
            check = channel.unary_unary("/grpc.health.v1.Health/Check")
            assert check(b"", timeout=5) == b"\x08\x01"
            go.set()
            answered = [call for call in first if call.exception(20) is None]
        server.stop(0).wait()
    assert len(answered) == CONCURRENCY
    assert {error.code() for error in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert refused[0].details() == "central node: 32 requests are being answered; send it again in a moment"


def test_client_that_hangs_up_frees_its_place(cluster_dirs: List[str]) -> None:
    """A caller that cancels while a member is silent is noticed at once, not at the deadline."""
    seen: List[bool] = []
    with gathering(cluster_dirs[0], [], min_members=1) as central:
        gather = central._gather

        def stuck(array: Any, started: float, deadline: float, on_gone: Any, joined: Any, without: Any) -> Any:
            gone = threading.Event()
            on_gone(gone.set)
            seen.append(gone.wait(10))
            return gather(array, started, deadline, on_gone, joined, without)

        central._gather = stuck
        server, address = open_front(central, "127.0.0.1:0")
        with grpc.insecure_channel(address) as channel:
            call_ = channel.unary_unary("/{}/ModelInfer".format(SERVICE)).future(infer_request().SerializeToString())
            time.sleep(0.1)
            call_.cancel()
            settled(lambda: bool(seen))
        server.stop(0).wait()
    assert seen == [True]


@pytest.mark.parametrize("typed", [False, True])
def test_infer(address: str, typed: bool) -> None:
    request = infer_request()
    if typed:
        del request.raw_input_contents[:]
        request.inputs[0].contents.uint_contents.extend(PIXELS.flatten().tolist())
    request.outputs.add(name="logits")
    response = messages()["ModelInferResponse"].FromString(call_raw(address, "ModelInfer", request.SerializeToString()))
    assert (response.model_name, response.model_version, response.id) == ("coformer", "b" * 12, "seven")
    output = response.outputs[0]
    assert (output.name, output.datatype, list(output.shape)) == ("logits", "FP32", [1, 5])
    logits = np.frombuffer(response.raw_output_contents[0], "<f4").reshape(1, 5)
    np.testing.assert_allclose(logits, bundles.answer_of(EVERYONE, PIXELS), rtol=1e-4, atol=1e-4)
    values = {key: parameter_value(value) for key, value in response.parameters.items()}
    assert values["members"] == "attic,hall,desk" and values["degraded"] is False
    assert values["build"] == "b" * 64 and values["expected_accuracy"] == pytest.approx(0.93)
    phases = {"total_ms", "gather_ms", "aggregate_ms"}
    phases |= {"{}.{}".format(kind, device) for kind in ("compute_ms", "transfer_ms") for device in bundles.DEVICES}
    assert {key for key in values if "_ms" in key} == phases


def no_input(request: Any) -> None:
    del request.inputs[:]


def two_inputs(request: Any) -> None:
    request.inputs.add(name="more")


def input_name(request: Any) -> None:
    request.inputs[0].name = "image"


def output_name(request: Any) -> None:
    request.outputs.add(name="boxes")


def datatype(request: Any) -> None:
    request.inputs[0].datatype = "FP32"


def shape(request: Any) -> None:
    request.inputs[0].shape[0] = 2


def size(request: Any) -> None:
    request.raw_input_contents[0] = b"123"


def raw_twice(request: Any) -> None:
    request.raw_input_contents.append(b"")


def raw_and_typed(request: Any) -> None:
    request.inputs[0].contents.uint_contents.append(1)


def no_data(request: Any) -> None:
    del request.raw_input_contents[:]


def other_field(request: Any) -> None:
    del request.raw_input_contents[:]
    request.inputs[0].contents.fp32_contents.extend([1.0] * 16)


def typed_count(request: Any) -> None:
    del request.raw_input_contents[:]
    request.inputs[0].contents.uint_contents.extend([1] * 15)


def typed_range(request: Any) -> None:
    del request.raw_input_contents[:]
    request.inputs[0].contents.uint_contents.extend([256] * 16)


INPUT = "request, input 'pixels'"
WRONG: List[Tuple[Callable[[Any], None], str, str, str]] = [
    (no_input, "the inputs are []", "request", "send exactly one input, 'pixels'"),
    (two_inputs, "the inputs are ['pixels', 'more']", "request", "send exactly one input, 'pixels'"),
    (input_name, "the inputs are ['image']", "request", "send exactly one input, 'pixels'"),
    (output_name, "output 'boxes' does not exist", "request", "ask for 'logits'"),
    (datatype, "the datatype is 'FP32'", INPUT, "send UINT8"),
    (shape, "the shape is [2, 1, 4, 4]", INPUT, "send [1, 1, 4, 4]"),
    (size, "3 raw bytes", INPUT, "send 16 bytes"),
    (raw_twice, "2 raw contents for one input", INPUT, "send either one raw_input_contents or contents"),
    (
        raw_and_typed,
        "1 raw contents for one input with contents",
        INPUT,
        "send either one raw_input_contents or contents",
    ),
    (no_data, "the data is in no field", INPUT, "send it in contents.uint_contents"),
    (other_field, "the data is in ['fp32_contents']", INPUT, "send it in contents.uint_contents"),
    (typed_count, "15 values", INPUT, "send 16 values"),
    (typed_range, "values that do not fit uint8", INPUT, "send values in its range"),
]


@pytest.mark.parametrize(("edit", "what", "where", "mend"), WRONG, ids=[case[0].__name__ for case in WRONG])
def test_wrong_request(address: str, edit: Callable[[Any], None], what: str, where: str, mend: str) -> None:
    request = infer_request()
    edit(request)
    with pytest.raises(grpc.RpcError) as caught:
        call_raw(address, "ModelInfer", request.SerializeToString())
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "{}: {}; {}".format(where, what, mend)
    metadata = dict(caught.value.trailing_metadata())
    assert json.loads(metadata["coformer-error-bin"].decode()) == [what, where, mend]


@pytest.mark.parametrize("method", ["ModelReady", "ModelMetadata"])
def test_unknown_model(address: str, method: str) -> None:
    for fields in ({"name": "resnet"}, {"name": "coformer", "version": "2"}):
        with pytest.raises(grpc.RpcError) as caught:
            call(address, method, **fields)
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        assert "is not served; ask for model 'coformer', version 'bbbbbbbbbbbb' or none" in caught.value.details()


@given(st.binary(max_size=200))
def test_junk_gets_a_status(address: str, data: bytes) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call_raw(address, "ModelInfer", data)
    assert caught.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)


def test_bytes_that_are_no_message(address: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call_raw(address, "ModelInfer", b"\xff\xff")
    assert caught.value.details() == (
        "request: the bytes are not a ModelInferRequest; send messages of the Open Inference Protocol v2"
    )


def test_client(address: str) -> None:
    with Client(address) as client:
        assert client.ready()
        answer = client.infer(PIXELS)
        np.testing.assert_allclose(answer.logits, bundles.answer_of(EVERYONE, PIXELS), rtol=1e-4, atol=1e-4)
        assert answer.members == bundles.DEVICES and not answer.degraded
        with pytest.raises(CoformerError) as caught:
            client.infer(PIXELS.astype(np.float32))
        assert not isinstance(caught.value, CheckFailed)
        assert (caught.value.what, caught.value.where, caught.value.mend) == (
            "the datatype is 'FP32'",
            "request, input 'pixels'",
            "send UINT8",
        )


def test_nobody_listens() -> None:
    with Client("127.0.0.1:9") as client:
        assert not client.ready()
        with pytest.raises(CheckFailed, match=r"unavailable: .*check that the central node runs at this address"):
            client.infer(PIXELS)


def test_missing_member_and_internal_error(
    cluster_dirs: List[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    with gathering(cluster_dirs[0], ["127.0.0.1:9", "127.0.0.1:10"], wait=False) as central:
        server, address = open_front(central, "127.0.0.1:0")
        with Client(address) as client:
            assert not client.ready()
            with pytest.raises(CheckFailed, match="all 3 members are needed; missing: hall "):
                client.infer(PIXELS)
            monkeypatch.setattr(central, "answer", lambda *words, **options: 1 / 0)
            with pytest.raises(CheckFailed, match=r"internal error [0-9a-f]{12}") as caught:
                client.infer(PIXELS)
        server.stop(0).wait()
    assert "division" not in str(caught.value)
    logged = capfd.readouterr().err
    assert "ZeroDivisionError" in logged and caught.value.what.split()[-1] in logged
