"""Messages above 8 MiB are refused at every port before they are looked at, and the node goes on answering."""

from typing import Any, Iterator, List, Tuple

import grpc
import numpy as np
import pytest

from coformer_runtime import wire
from coformer_runtime.bundle import open_bundle
from coformer_runtime.client import Client
from coformer_runtime.front import open_front
from coformer_runtime.oip import SERVICE, messages
from coformer_runtime.wire import MAX_FRAME_BYTES
from coformer_runtime.worker import Worker
from tests.runtime import bundles
from tests.runtime.nodes import EVERYONE, PIXELS, gathering, serving

TOO_MUCH = MAX_FRAME_BYTES + 1


@pytest.fixture(scope="module")
def site(cluster_dirs: List[str]) -> Iterator[Tuple[str, str]]:
    """Addresses of a central node and of the worker hall, which also takes inputs from clients."""
    with Worker(open_bundle(cluster_dirs[1]), "127.0.0.1:0", 1, broadcast=True) as hall, serving(
        cluster_dirs[2]
    ) as desk, gathering(cluster_dirs[0], [hall.address, desk]) as central:
        server, address = open_front(central, "127.0.0.1:0")
        yield address, hall.address
        server.stop(0).wait()


def refused(call: Any) -> str:
    """Return what a call that is too large is told."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    details: str = caught.value.details()
    return details


def answers(address: str) -> None:
    with Client(address) as client:
        answer = client.infer(PIXELS)
    assert answer.members == bundles.DEVICES
    np.testing.assert_allclose(answer.logits, bundles.answer_of(EVERYONE, PIXELS), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["ModelInfer", "ServerLive"])
def test_a_client_that_sends_too_much(site: Tuple[str, str], method: str) -> None:
    request = messages()["ModelInferRequest"](model_name="coformer")
    request.inputs.add(name="pixels", datatype="UINT8", shape=(1, 1, 4, 4))
    request.raw_input_contents.append(bytes(TOO_MUCH))
    with grpc.insecure_channel(site[0]) as channel:
        call = channel.unary_unary("/{}/{}".format(SERVICE, method))
        told = refused(lambda: call(request.SerializeToString(), timeout=20))
        assert "larger than max" in told and str(MAX_FRAME_BYTES) in told
        answers(site[0])
        live = channel.unary_unary("/{}/ServerLive".format(SERVICE))
        assert live(b"", timeout=5) == b"\x08\x01"  # on the connection that was refused


def test_a_stream_of_texts_that_sends_too_much(site: Tuple[str, str]) -> None:
    with grpc.insecure_channel(site[0]) as channel:
        call = channel.stream_stream("/{}/ModelStreamInfer".format(SERVICE))
        told = refused(lambda: list(call(iter([bytes(TOO_MUCH)]), timeout=20)))
    assert "larger than max" in told and str(MAX_FRAME_BYTES) in told
    answers(site[0])


def test_a_peer_that_sends_a_worker_too_much(site: Tuple[str, str], cluster_dirs: List[str]) -> None:
    """The stream that brought it ends; the central node's own one, and new ones, go on."""
    manifest = open_bundle(cluster_dirs[1]).manifest
    hello = wire.encode_frame(wire.hello_frame(manifest, "0"))
    ask = wire.encode_frame(wire.tensor_frame(wire.REQUEST, 5, manifest.build, PIXELS))
    with grpc.insecure_channel(site[1]) as channel:
        converse = channel.stream_stream(wire.METHOD)
        refused(lambda: list(converse(iter([hello, ask + bytes(TOO_MUCH)]), timeout=20)))
        replies = [wire.decode_frame(data).kind for data in converse(iter([hello, ask]), timeout=20)]
        assert replies == [wire.HELLO, wire.FEATURES]
        submit = channel.unary_unary(wire.SUBMIT)
        refused(lambda: submit(bytes(TOO_MUCH), timeout=20))
    answers(site[0])


def test_what_just_fits_is_looked_at(site: Tuple[str, str]) -> None:
    with grpc.insecure_channel(site[0]) as channel:
        call = channel.unary_unary("/{}/ModelInfer".format(SERVICE))
        with pytest.raises(grpc.RpcError) as caught:
            call(b"\xff" * MAX_FRAME_BYTES, timeout=20)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
