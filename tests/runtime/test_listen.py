"""Addresses: loopback is free, everything else must be asked for."""

import pytest

from coformer_runtime.errors import CoformerError
from coformer_runtime.listen import open_server, run_threads
from coformer_runtime.security import LOOPBACK, Security, parse_address


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("127.9.9.9:0", ("127.9.9.9", 0)),
        ("localhost:65535", ("localhost", 65535)),
        ("[::1]:7", ("::1", 7)),
    ],
)
def test_loopback(address: str, expected: tuple) -> None:
    assert parse_address(address, LOOPBACK, "--listen") == expected


@pytest.mark.parametrize("address", ["0.0.0.0:80", "[::]:80", "192.168.0.9:80", "board:80"])
def test_other_machines_need_insecure(address: str) -> None:
    with pytest.raises(CoformerError) as caught:
        parse_address(address, LOOPBACK, "--listen")
    assert "'{}' can be reached from other machines".format(address) in caught.value.what
    assert "pass --insecure on a network that you trust" in caught.value.mend
    assert parse_address(address, Security(insecure=True), "--listen")[1] == 80


@pytest.mark.parametrize("address", ["", "80", ":80", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:x"])
def test_no_address(address: str) -> None:
    with pytest.raises(CoformerError, match="is not an address"):
        parse_address(address, Security(insecure=True), "--listen")


def test_taken_port() -> None:
    server, address = open_server({}, "127.0.0.1:0", LOOPBACK, 1)
    try:
        with pytest.raises(CoformerError, match="cannot be listened on"):
            open_server({}, address, LOOPBACK, 1)
    finally:
        server.stop(0).wait()


def test_threads() -> None:
    assert run_threads() >= 1
