"""Members that are silent, overloaded or broken are failed replies, never exceptions or endless waits."""

import socket
import threading
import time
from typing import Any, Dict, Iterator, List, Optional, Tuple

import pytest

from coformer_runtime import members, wire
from coformer_runtime.bundle import open_bundle
from coformer_runtime.engines import Engine
from coformer_runtime.listen import open_server
from coformer_runtime.manifest import Manifest
from coformer_runtime.members import OwnMember, WorkerLink
from tests.runtime.nodes import PIXELS, settled


@pytest.fixture
def manifest(cluster_dirs: List[str]) -> Manifest:
    return open_bundle(cluster_dirs[0]).manifest


def accept(link: WorkerLink, greeting: wire.Greeting) -> Optional[str]:
    link.member, link.claimed = greeting.member, True
    return None


def served(exchange: Any) -> Tuple[Any, str]:
    import grpc

    methods = {wire.METHOD_NAME: grpc.stream_stream_rpc_method_handler(exchange)}
    return open_server(wire.SERVICE, methods, "127.0.0.1:0", False, 4)


def test_silent_address(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "HANDSHAKE_S", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(1)
        address = "127.0.0.1:{}".format(silent.getsockname()[1])
        link = WorkerLink(address, manifest, None, accept)
        assert link.tried.wait(5)
        assert link.problem == "unreachable: {} sent no hello within 0.2 s".format(address)
        assert link.ask(1, b"").result(0).failure == link.problem
        link.close()


def test_overloaded_worker(cluster_dirs: List[str], manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "MAX_IN_FLIGHT", 3)
    hello = wire.encode_frame(wire.hello_frame(open_bundle(cluster_dirs[1]).manifest, "0"))
    release = threading.Event()

    def exchange(frames: Iterator[bytes], context: Any) -> Iterator[bytes]:
        yield hello
        release.wait(10)

    server, address = served(exchange)
    link = WorkerLink(address, manifest, None, accept)
    settled(lambda: link.problem is None)
    waiting = [link.ask(number, b"") for number in range(3)]
    assert link.ask(3, b"").result(0).failure == "busy: 3 requests wait for it"
    link.forget(0)  # a worker that stalls still has it to do
    assert link.ask(4, b"").result(0).failure == "busy: 3 requests wait for it"
    assert not any(future.done() for future in waiting)
    release.set()
    assert waiting[1].result(5).failure == "unreachable: {} ended the conversation".format(address)
    assert waiting[2].result(5).features is None and not waiting[0].done()
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
    assert second.result(5).late
    own.close()
    assert "ZeroDivisionError: secret" in capsys.readouterr().err
