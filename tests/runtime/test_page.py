"""The operator port among callers who dawdle: a scrape is answered at once, and whoever takes too long is left."""

import contextlib
import socket
import threading
import time
import urllib.request
from typing import Iterator, List, Tuple

import pytest

from coformer_runtime import page
from coformer_runtime.errors import CoformerError
from coformer_runtime.page import CALLERS, POLICY, OperatorPort
from tests.runtime.nodes import settled
from tests.runtime.proxy import half_open

AT_ONCE_S = 1.0  # on a busy machine


def scrape(address: str) -> Tuple[str, float]:
    started = time.monotonic()
    with urllib.request.urlopen("http://{}/metrics".format(address), timeout=10) as answer:
        return answer.read().decode(), time.monotonic() - started


@contextlib.contextmanager
def dripping(address: str, every_s: float) -> Iterator[List[float]]:
    """A caller who sends one byte of a request at a time; the list gets when he was hung up on (time.monotonic())."""
    host, port = address.split(":")
    over, ended = threading.Event(), []

    def drip() -> None:
        with socket.create_connection((host, int(port)), timeout=10) as end:
            with contextlib.suppress(OSError):
                for letter in b"GET /metrics HTTP/1.1\r\nHost: " + b"a" * 10000:
                    end.sendall(bytes([letter]))
                    if over.wait(every_s):
                        return
            ended.append(time.monotonic())

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        yield ended
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("silent", [10, 3 * CALLERS])
def test_a_scrape_is_answered_at_once_beside_callers_who_dawdle(silent: int) -> None:
    with OperatorPort("127.0.0.1:0", False, lambda: "figures") as port, dripping(port.address, 0.05):
        junk = half_open(port.address, silent)
        for _ in range(3):
            told, took_s = scrape(port.address)
            assert told == "figures" and took_s < AT_ONCE_S
        assert len(port._server._callers) <= CALLERS
        for end in junk:
            end.close()


def test_a_request_as_a_whole_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes in time, the request does not: its caller is hung up on, and so is one who reads no answer."""
    monkeypatch.setattr(page, "PATIENCE_S", 0.5)
    with OperatorPort("127.0.0.1:0", False, lambda: "x" * (64 << 20)) as port:
        started = time.monotonic()
        with dripping(port.address, 0.05) as ended:
            settled(lambda: bool(ended), 5)
        assert 0.4 < ended[0] - started < 0.5 + page.LOOK_S + AT_ONCE_S
        deaf = half_open(port.address, 1, b"GET /metrics HTTP/1.0\r\n\r\n")
        settled(lambda: len(port._server._callers) == 1, 5)
        settled(lambda: not port._server._callers, 5)
        deaf[0].close()


def test_callers_are_left_when_the_port_closes() -> None:
    with OperatorPort("127.0.0.1:0", False, str) as port:
        junk = half_open(port.address, 3)
        settled(lambda: len(port._server._callers) == 3, 5)
    assert not port._server._callers
    for end in junk:
        assert end.recv(1) == b""
        end.close()


def test_a_port_whose_threads_are_all_stuck_refuses_and_recovers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "PLACE_S", 0.05)
    go = threading.Event()

    def figures() -> str:
        assert go.wait(20)
        return "figures"

    with OperatorPort("127.0.0.1:0", False, figures) as port:
        asked = half_open(port.address, CALLERS, b"GET /metrics HTTP/1.0\r\n\r\n")
        settled(lambda: len(port._server._callers) == CALLERS, 5)
        more = half_open(port.address, 1)[0]
        assert more.recv(1) == b""  # no thread more than there are places
        go.set()
        assert scrape(port.address)[0] == "figures"
        for end in (*asked, more):
            end.close()


def test_a_thread_that_cannot_be_had_costs_no_place(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with OperatorPort("127.0.0.1:0", False, lambda: "figures") as port:
        with monkeypatch.context() as patch:
            patch.setattr(page.threading.Thread, "start", fail)
            for end in [half_open(port.address, 1)[0] for _ in range(CALLERS + 1)]:
                assert end.recv(1) == b""
                end.close()
        assert scrape(port.address)[0] == "figures"
    assert capsys.readouterr().err.count("can't start new thread") >= CALLERS


def test_pages_may_not_load_from_elsewhere() -> None:
    with OperatorPort("127.0.0.1:0", False, str) as port:
        answer = urllib.request.urlopen("http://{}/metrics".format(port.address), timeout=5)
        assert answer.headers["Content-Security-Policy"] == POLICY
        answer.close()


def test_only_insecure_opens_it_to_other_machines() -> None:
    """Certificates protect the nodes' own ports, not plain HTTP."""
    with pytest.raises(CoformerError) as caught:
        OperatorPort("0.0.0.0:0", False, str)
    assert str(caught.value) == (
        "--metrics: '0.0.0.0:0' can be reached from other machines, and plain HTTP tells anyone there how the cluster "
        "is; use a loopback address such as 127.0.0.1 and lead there by a proxy that speaks TLS, or an SSH tunnel; or "
        "pass --insecure, in place of --tls, on a network that you trust"
    )
    with OperatorPort("0.0.0.0:0", True, lambda: "figures") as port:
        assert scrape(port.address.replace("0.0.0.0", "127.0.0.1"))[0] == "figures"
    with pytest.raises(CoformerError, match="--metrics: 'here' is not an address; write HOST:PORT"):
        OperatorPort("here", False, str)
