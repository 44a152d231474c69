"""The library itself: imported when it is needed, and what it says while it works."""

import contextlib
import gc
import threading
from typing import Any, Iterator, List

from ..errors import CoformerError
from .api import OLDEST, version_of

MEND_IMPORT = (
    "install it from JetPack (sudo apt install python3-libnvinfer) and run the system's Python, or a virtual "
    "environment made with --system-site-packages"
)
_ERROR, _WARNING = 1, 2
_KEPT = 20


def import_tensorrt(where: str) -> Any:
    """Return the module `tensorrt`.

    Raises:
        CoformerError: it cannot be imported, or is older than what is supported.
    """
    try:
        import tensorrt as trt
    except ImportError as error:
        raise CoformerError("TensorRT cannot be imported ({})".format(error), where, MEND_IMPORT) from error
    if version_of(trt.__version__) < OLDEST:
        raise CoformerError(
            "TensorRT is {}, the oldest that is supported is {}.{}".format(trt.__version__, *OLDEST),
            where,
            "install JetPack 4.6.1 or later",
        )
    return trt


class _Collector:
    """Python's cyclic garbage collector, off while any thread is in a call that wants it off."""

    def __init__(self) -> None:
        self._lock, self._calls, self._was_on = threading.Lock(), 0, False

    def enter(self) -> None:
        with self._lock:
            if self._calls == 0:
                self._was_on = gc.isenabled()
                gc.disable()
            self._calls += 1

    def leave(self) -> None:
        with self._lock:
            self._calls -= 1
            if self._calls == 0 and self._was_on:
                gc.enable()


_collector = _Collector()


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Keep the cyclic garbage collector out of calls into the library; a decorator as well.

    The library tells its logger things while it holds locks of its own. A collection that happens to begin there may
    free a builder or an engine that an earlier failure has left in a cycle of references, whose end wants the same
    lock: the thread then waits for itself, for ever (seen with TensorRT-RTX 1.7).
    """
    _collector.enter()
    try:
        yield
    finally:
        _collector.leave()


class Log:
    """What the library said. `logger` is the object that it wants, which has to live as long as what it made."""

    def __init__(self, trt: Any) -> None:
        errors: List[str] = []
        warnings: List[str] = []

        class Logger(trt.ILogger):  # type: ignore[misc]  # the base is known when the library is there
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, text: str) -> None:
                level = int(severity)
                if level <= _WARNING:
                    kept = errors if level <= _ERROR else warnings
                    kept.append(text)
                    del kept[:-_KEPT]

        self.errors, self.warnings = errors, warnings
        self.logger: Any = Logger()

    def told(self) -> str:
        """Return the errors in one line, or else the last warnings."""
        said = self.errors or self.warnings[-3:]
        return " | ".join(" ".join(text.split()) for text in said) or "it gave no reason"
