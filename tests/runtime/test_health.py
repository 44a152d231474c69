"""grpc.health.v1, with messages spelled out by hand."""

import threading
from typing import Iterator, List

import grpc
import pytest

from coformer_runtime import health
from coformer_runtime.health import SERVICE, WATCHERS, Health
from coformer_runtime.listen import open_server
from coformer_runtime.security import LOOPBACK

SERVING, NOT_SERVING, SERVICE_UNKNOWN = b"\x08\x01", b"\x08\x02", b"\x08\x03"
CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"


class Site:
    """A server whose readiness the test sets."""

    def __init__(self) -> None:
        self.ready = True
        methods = Health(("a.B",), lambda: self.ready).methods()
        self.server, self.address = open_server({SERVICE: methods}, "127.0.0.1:0", LOOPBACK, 24)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(health, "LOOK_S", 0.02)
    made = Site()
    yield made
    made.server.stop(0).wait()


def test_check(site: Site) -> None:
    with grpc.insecure_channel(site.address) as channel:
        check = channel.unary_unary(CHECK)
        assert check(b"", timeout=5) == check(b"\x0a\x03a.B", timeout=5) == SERVING
        site.ready = False
        assert check(b"", timeout=5) == NOT_SERVING
        for data, code in (
            (b"\x0a\x01x", grpc.StatusCode.NOT_FOUND),
            (b"\xff", grpc.StatusCode.INVALID_ARGUMENT),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                check(data, timeout=5)
            assert caught.value.code() == code


def test_watch_tells_changes_only(site: Site) -> None:
    with grpc.insecure_channel(site.address) as channel:
        call = channel.unary_stream(WATCH)(b"", timeout=10)
        seen: List[bytes] = []
        for status in call:
            seen.append(status)
            site.ready = not site.ready
            if len(seen) == 4:
                break
        call.cancel()
        assert seen == [SERVING, NOT_SERVING, SERVING, NOT_SERVING]
        assert next(channel.unary_stream(WATCH)(b"\x0a\x01x", timeout=10)) == SERVICE_UNKNOWN


def test_watchers_are_bounded_and_let_go(site: Site) -> None:
    with grpc.insecure_channel(site.address) as channel:
        watch = channel.unary_stream(WATCH)
        calls = [watch(b"", timeout=10) for _ in range(WATCHERS)]
        assert [next(call) for call in calls] == [SERVING] * WATCHERS
        with pytest.raises(grpc.RpcError) as caught:
            next(watch(b"", timeout=10))
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        for call in calls:
            call.cancel()
        for _ in range(100):
            try:
                assert next(watch(b"", timeout=10)) == SERVING
                return
            except grpc.RpcError:
                threading.Event().wait(0.02)
        raise AssertionError("no watcher was let go")
