"""A TCP proxy that misbehaves on demand: what lies between the boards when the network is bad."""

import contextlib
import socket
import struct
import threading
import time
from types import TracebackType
from typing import List, Optional, Tuple, Type

PASS, DELAY, BLACK_HOLE, DRIP, DROP, REFUSE = "pass", "delay", "black hole", "drip", "drop", "refuse"
THROTTLE = "throttle"
FAULTS = (DELAY, BLACK_HOLE, DRIP, DROP, REFUSE)


class Proxy:
    """Forwards HOST:PORT, in the mode that is set; modes hold for open connections too.

    pass: at once; delay: every piece later, by `delay_s`; black hole: bytes vanish, nobody hangs up; drip: a byte
    every 10 ms; drop: connections end after the first bytes; refuse: and new ones at once; throttle: `mbps` for all
    connections together, either way.
    """

    def __init__(self, target: str, delay_s: float = 1.0, mbps: float = 10.0) -> None:
        host, _, port = target.rpartition(":")
        self.mode, self._target, self._delay_s = PASS, (host, int(port)), delay_s
        self._mbps, self._shared, self._free = mbps, threading.Lock(), 0.0
        self._listening = socket.socket()
        self._listening.bind(("127.0.0.1", 0))
        self._listening.listen(64)
        self.address = "127.0.0.1:{}".format(self._listening.getsockname()[1])
        self._lock = threading.Lock()
        self._open: List[socket.socket] = []
        self._closing = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def set(self, mode: str) -> None:
        """Change the mode; drop and refuse also end what is open."""
        self.mode = mode
        if mode in (DROP, REFUSE):
            self._reset()

    def strike_next(self, mode: str) -> None:
        """Change the mode with the next bytes: a connection that is open is so until a request comes, and ends then."""
        self.mode = mode

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self._closing.set()
        self._listening.close()
        self._reset()

    def _reset(self) -> None:
        with self._lock:
            ends, self._open = self._open, []
        for end in ends:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST, no FIN
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            if self.mode == REFUSE:
                near.close()
                continue
            try:
                far = socket.create_connection(self._target, timeout=5)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            with self._lock:
                self._open += [near, far]
            for pair in ((near, far), (far, near)):
                threading.Thread(target=self._forward, args=pair, daemon=True).start()

    def _wait_for(self, count: int) -> None:
        """Wait for the end of a transfer of so many bytes on the one link."""
        with self._shared:
            self._free = max(self._free, time.monotonic()) + count * 8e-6 / self._mbps
            until = self._free
        self._closing.wait(max(0.0, until - time.monotonic()))

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                data = source.recv(1 << 12 if self.mode == THROTTLE else 1 << 16)
                if not data:
                    break
                mode = self.mode
                if mode == DELAY:
                    self._closing.wait(self._delay_s)
                elif mode in (DROP, REFUSE):
                    self._reset()
                    break
                while self.mode == DRIP and data:
                    sink.sendall(data[:1])
                    data = data[1:]
                    self._closing.wait(0.01)
                if mode == THROTTLE:
                    self._wait_for(len(data))
                if self.mode != BLACK_HOLE:
                    sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def half_open(address: str, count: int, said: bytes = b"") -> Tuple[socket.socket, ...]:
    """Open connections that say this and then nothing."""
    host, _, port = address.rpartition(":")
    made = []
    for _ in range(count):
        end = socket.create_connection((host, int(port)), timeout=5)
        end.sendall(said)
        made.append(end)
    time.sleep(0.05)
    return tuple(made)
