"""Lengths and bytes back and forth on plain TCP sockets: the floor of what a round trip costs."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

LENGTH = struct.Struct("<I")
Send = Callable[[bytes], Any]
Receive = Callable[[Any], bytes]


def serve(answer: Callable[[bytes], bytes]) -> str:
    """Answer whoever connects, each on a thread of its own, as long as this process lives; return HOST:PORT."""
    listening = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            threading.Thread(target=converse, args=(listening.accept()[0],), daemon=True).start()

    def converse(peer: socket.socket) -> None:
        with peer:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while header := received(peer, LENGTH.size):
                send(peer, answer(received(peer, *LENGTH.unpack(header))))

    threading.Thread(target=accept, daemon=True).start()
    return f"127.0.0.1:{listening.getsockname()[1]}"


@contextlib.contextmanager
def plain(address: str) -> Iterator[tuple[Send, Receive]]:
    """A connection to such a peer: how to send, and how to receive what that is answered with."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port))) as mine:
        mine.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield lambda data: send(mine, data), lambda sent: received(mine, *LENGTH.unpack(received(mine, LENGTH.size)))


def send(peer: socket.socket, data: bytes) -> None:
    """Send the length and the bytes."""
    peer.sendall(LENGTH.pack(len(data)))
    peer.sendall(data)


def received(peer: socket.socket, count: int) -> bytes:
    """Exactly so many bytes, or none where the peer has closed."""
    data = bytearray(count)
    view, filled = memoryview(data), 0
    while filled < count:
        piece = peer.recv_into(view[filled:])
        if not piece:
            return b""
        filled += piece
    return bytes(data)
