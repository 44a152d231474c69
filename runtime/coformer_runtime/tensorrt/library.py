"""The library itself: imported when it is needed, and what it says while it works."""

from typing import Any, List

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
