"""Ctrl-C, remembered."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Interrupts:
    """Notes that the user interrupted, besides raising `KeyboardInterrupt` as ever.

    The exception alone does not do: where it is raised inside a callback of a native library, the library may drop it
    and fail with an error of its own (safetensors: "could not determine the shape of object type"), which would pass
    for a bug or for a damaged file.
    """

    def __init__(self) -> None:
        self.came = False
        self._before: Any = None

    def __enter__(self) -> Interrupts:
        # Only the main thread may set handlers, and one that somebody else has set is left alone.
        ours = threading.current_thread() is threading.main_thread()
        if ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._before = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        signal.default_int_handler(number, frame)
