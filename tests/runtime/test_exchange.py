"""The worker's end of a stream: in order, bounded, cancelled requests never begun, silent peers hung up on."""

import threading
import time
from typing import Any, Iterator, List, Tuple

import grpc
import numpy as np
import pytest

from coformer_runtime import exchange as exchanges
from coformer_runtime import wire
from coformer_runtime.bundle import open_bundle
from coformer_runtime.exchange import MAX_WAITING, Exchange, Inbox
from coformer_runtime.listen import open_server
from coformer_runtime.manifest import Manifest
from coformer_runtime.security import LOOPBACK
from tests.runtime import bundles
from tests.runtime.nodes import PIXELS, settled
from tests.runtime.text_bundles import WORDS, text_manifest


@pytest.fixture
def manifest(cluster_dirs: List[str]) -> Manifest:
    return open_bundle(cluster_dirs[1]).manifest


class Gate:
    """An engine that waits for its go and remembers how often it ran."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.begun: List[float] = []

    def infer(self, array: Any) -> Any:
        self.begun.append(time.monotonic())
        assert self.go.wait(10)
        return bundles.features_of(1, array)


def served(manifest: Manifest, gate: Gate) -> Tuple[Any, str]:
    methods = Exchange(manifest, gate.infer, threading.Lock()).methods()
    return open_server({wire.SERVICE: methods}, "127.0.0.1:0", LOOPBACK, 4)


def request(manifest: Manifest, number: int, budget_ms: int = 0) -> bytes:
    return wire.encode_frame(wire.tensor_frame(wire.REQUEST, number, manifest.build, PIXELS, budget_ms))


def cancel(manifest: Manifest, number: int) -> bytes:
    return wire.encode_frame(wire.Frame(wire.CANCEL, number, manifest.build))


def test_cancelled_and_over_budget_are_not_begun(manifest: Manifest) -> None:
    gate = Gate()
    server, address = served(manifest, gate)
    hello = wire.encode_frame(wire.hello_frame(manifest, "0"))

    def frames() -> Iterator[bytes]:
        yield hello
        for number in (1, 2, 3, 4):
            yield request(manifest, number, budget_ms=50 if number == 3 else 0)
        yield cancel(manifest, 2)
        yield cancel(manifest, 77)
        settled(lambda: len(gate.begun) == 1)
        time.sleep(0.2)
        gate.go.set()

    with grpc.insecure_channel(address) as channel:
        replies = [wire.decode_frame(data) for data in channel.stream_stream(wire.METHOD)(frames(), timeout=10)]
    server.stop(0).wait()
    assert [reply.request_id for reply in replies] == [0, 1, 2, 3, 4]
    assert [reply.status for reply in replies] == [0, 0, wire.CANCELLED, wire.LATE, 0]
    assert wire.frame_error(replies[3]).what == "the budget of 50 ms was over before the engine was free"
    np.testing.assert_allclose(wire.frame_tensor(replies[4]), bundles.features_of(1, PIXELS), rtol=1e-5)
    assert len(gate.begun) == 2


def test_full_inbox_is_not_read_into(manifest: Manifest) -> None:
    sent: List[int] = []

    def frames() -> Iterator[bytes]:
        for number in range(MAX_WAITING + 10):
            sent.append(number)
            yield request(manifest, number)

    inbox = Inbox()
    reader = threading.Thread(target=inbox.fill, args=(frames(),))
    reader.start()
    settled(lambda: len(sent) == MAX_WAITING + 1)
    time.sleep(0.05)
    assert len(sent) == MAX_WAITING + 1
    taken = [item.frame.request_id for item in inbox if item.frame is not None]
    reader.join(5)
    assert taken == list(range(MAX_WAITING + 10)) and not reader.is_alive()


def test_closed_inbox_lets_its_reader_go(manifest: Manifest) -> None:
    inbox = Inbox()
    endless = (request(manifest, number) for number in range(10**9))
    reader = threading.Thread(target=inbox.fill, args=(endless,))
    reader.start()
    inbox.close()
    reader.join(5)
    assert not reader.is_alive()


def test_silent_peer_is_hung_up_on(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchanges, "HANDSHAKE_S", 0.2)
    server, address = served(manifest, Gate())
    over = threading.Event()

    def silence() -> Iterator[bytes]:
        over.wait(10)
        return iter(())
        yield b""

    with grpc.insecure_channel(address) as channel:
        started = time.monotonic()
        with pytest.raises(grpc.RpcError) as caught:
            next(channel.stream_stream(wire.METHOD)(silence(), timeout=10))
        assert 0.15 < time.monotonic() - started < 5
        assert caught.value.code() == grpc.StatusCode.CANCELLED
        over.set()
    server.stop(0).wait()


def test_numbers_of_no_token_never_reach_the_engine() -> None:
    manifest, gate = text_manifest(1), Gate()
    exchange = Exchange(manifest, gate.infer, threading.Lock())
    for numbers, said in (([3, WORDS], "go from 3 to {}".format(WORDS)), ([-1, 4], "go from -1 to 4")):
        ids = np.resize(np.array(numbers, np.int32), manifest.input.shape)
        frame = wire.tensor_frame(wire.REQUEST, 1, manifest.build, ids)
        refused = exchange.refusal(frame)
        assert refused is not None
        reply = wire.decode_frame(refused)
        assert reply.status == wire.BAD_REQUEST and said in wire.frame_error(reply).what
    assert exchange.refusal(wire.tensor_frame(wire.REQUEST, 1, manifest.build, ids.clip(0))) is None
    assert gate.begun == []
