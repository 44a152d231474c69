"""Members that are silent, overloaded or broken are failed replies, never exceptions or endless waits."""

import socket
import threading
import time
from typing import Any, Dict, Iterator, List, Optional, Tuple

import numpy as np
import pytest

from coformer_runtime import link as links
from coformer_runtime import members, wire
from coformer_runtime.bundle import open_bundle
from coformer_runtime.engines import Engine
from coformer_runtime.link import WorkerLink, open_link
from coformer_runtime.listen import open_server
from coformer_runtime.manifest import Manifest
from coformer_runtime.members import LATE, OwnMember, Reply
from coformer_runtime.security import LOOPBACK
from tests.runtime.nodes import PIXELS, settled

SOON = float("inf")


@pytest.fixture
def manifest(cluster_dirs: List[str]) -> Manifest:
    return open_bundle(cluster_dirs[0]).manifest


def accept(link: WorkerLink, greeting: wire.Greeting) -> Optional[str]:
    link.member, link.claimed = greeting.member, True
    return None


def served(exchange: Any) -> Tuple[Any, str]:
    import grpc

    methods = {wire.METHOD_NAME: grpc.stream_stream_rpc_method_handler(exchange)}
    return open_server({wire.SERVICE: methods}, "127.0.0.1:0", LOOPBACK, 4)


def test_silent_address(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "HANDSHAKE_S", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(1)
        address = "127.0.0.1:{}".format(silent.getsockname()[1])
        link = open_link(address, manifest, None, accept)
        assert link.tried.wait(5)
        assert link.problem == "unreachable: {} sent no hello within 0.2 s".format(address)
        assert link.ask(1, b"", SOON).result(0).failure == link.problem
        link.close()


def test_overloaded_worker(cluster_dirs: List[str], manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "MAX_IN_FLIGHT", 3)
    hello = wire.encode_frame(wire.hello_frame(open_bundle(cluster_dirs[1]).manifest, "0"))
    release = threading.Event()

    def exchange(frames: Iterator[bytes], context: Any) -> Iterator[bytes]:
        yield hello
        release.wait(10)

    server, address = served(exchange)
    link = open_link(address, manifest, None, accept)
    settled(lambda: link.problem is None)
    waiting = [link.ask(number, b"", SOON) for number in range(3)]
    assert link.ask(3, b"", SOON).result(0).failure == "busy: 3 requests wait for it"
    link.cancel(0)  # a worker that stalls still has it to do
    assert link.ask(4, b"", SOON).result(0).failure == "busy: 3 requests wait for it"
    assert not any(future.done() for future in waiting)
    release.set()
    assert waiting[1].result(5).failure == "unreachable: {} ended the conversation".format(address)
    assert waiting[2].result(5).features is None and waiting[0].result(5).broken
    link.close()
    server.stop(0).wait()


class Fake(Engine):
    """Waits, then fails."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def run(self, feeds: Dict[str, Any]) -> Dict[str, Any]:
        self.go.wait(10)
        raise ZeroDivisionError("secret")

    def close(self) -> None:
        self.go.set()


def test_own_engine_fails_or_is_late(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(members, "MAX_IN_FLIGHT", 2)
    engine = Fake()
    own = OwnMember(engine, manifest)
    first = own.ask(PIXELS, time.monotonic() + 10)
    second = own.ask(PIXELS, time.monotonic() + 0.01)
    assert own.ask(PIXELS, time.monotonic() + 10).result(0).failure == "busy: 2 requests wait for its engine"
    time.sleep(0.05)
    engine.go.set()
    assert "its engine failed, look for " in first.result(5).failure
    assert "secret" not in first.result().failure
    assert second.result(5).cause == LATE
    own.close()
    assert "ZeroDivisionError: secret" in capsys.readouterr().err


def test_asked_a_second_time_when_the_stream_breaks(cluster_dirs: List[str], manifest: Manifest) -> None:
    """Twice at most: the second stream's end is final."""
    hall = open_bundle(cluster_dirs[1]).manifest
    seen: List[Tuple[int, int]] = []
    answers = [False, True, False, False]

    def exchange(frames: Iterator[bytes], context: Any) -> Iterator[bytes]:
        import grpc

        next(frames)
        yield wire.encode_frame(wire.hello_frame(hall, "0"))
        request = wire.decode_frame(next(frames))
        seen.append((request.request_id, request.budget_ms))
        if answers.pop(0):
            features = np.ones(hall.output.shape, np.float32)
            yield wire.encode_frame(wire.tensor_frame(wire.FEATURES, request.request_id, hall.build, features))
            seen.append((wire.decode_frame(next(frames)).request_id, 0))
        context.abort(grpc.StatusCode.UNAVAILABLE, "going")

    server, address = served(exchange)
    link = open_link(address, manifest, None, accept)
    settled(lambda: link.problem is None)

    def ask(number: int, for_s: float) -> Reply:
        frame = wire.tensor_frame(wire.REQUEST, number, manifest.build, PIXELS, 60000)
        return link.ask(number, wire.encode_frame(frame), time.monotonic() + for_s).result(5)

    assert ask(1, 5).features is not None
    assert [number for number, _ in seen] == [1, 1] and seen[0][1] == 60000 and 4000 < seen[1][1] <= 5000
    reply = ask(2, 5)
    assert reply.broken and reply.failure == "unreachable: {} (unavailable)".format(address)
    assert [number for number, _ in seen[2:]] == [2, 2] and link.retried == 2
    link.close()
    server.stop(0).wait()


def test_not_asked_again_without_time_or_for_another_status(cluster_dirs: List[str], manifest: Manifest) -> None:
    hall = open_bundle(cluster_dirs[1]).manifest
    codes: List[Any] = []
    seen: List[int] = []

    def exchange(frames: Iterator[bytes], context: Any) -> Iterator[bytes]:
        next(frames)
        yield wire.encode_frame(wire.hello_frame(hall, "0"))
        seen.append(wire.decode_frame(next(frames)).request_id)
        context.abort(codes.pop(0), "going")

    import grpc

    server, address = served(exchange)
    link = open_link(address, manifest, None, accept)
    data = wire.encode_frame(wire.tensor_frame(wire.REQUEST, 1, manifest.build, PIXELS, 60000))
    for code, deadline in ((grpc.StatusCode.INTERNAL, SOON), (grpc.StatusCode.UNAVAILABLE, 0.0)):
        settled(lambda: link.problem is None)
        codes.append(code)
        assert link.ask(1, data, deadline).result(5).broken
    assert seen == [1, 1] and link.retried == 0
    link.close()
    server.stop(0).wait()
