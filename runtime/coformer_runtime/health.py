"""grpc.health.v1: what load balancers and orchestrators ask before they send anything here."""

import functools
import threading
from typing import Any, Callable, Dict, Iterator, Tuple

from .messages import Fields, message_classes

SERVICE = "grpc.health.v1.Health"
UNKNOWN_SERVICE, SERVING, NOT_SERVING = 3, 1, 2
WATCHERS = 8  # each takes a thread
LOOK_S = 0.5
MESSAGES: Dict[str, Tuple[Fields, ...]] = {
    "HealthCheckRequest": (("service", 1, "string", ""),),
    "HealthCheckResponse": (("status", 1, "int32", ""),),  # an enum, which travels as an int32 does
}


@functools.lru_cache(maxsize=None)
def messages() -> Dict[str, Any]:
    """Return message name → message class; built on the first call."""
    return message_classes("grpc.health.v1", MESSAGES)


class Health:
    """Answers Check and Watch.

    Args:
        services: the service names that are served; "" stands for all of them.
        ready: whether requests would be answered now.
    """

    def __init__(self, services: Tuple[str, ...], ready: Callable[[], bool]) -> None:
        self._services, self._ready = ("", *services), ready
        self._watchers = threading.BoundedSemaphore(WATCHERS)

    def methods(self) -> Dict[str, Any]:
        """Return method name → gRPC handler."""
        import grpc

        return {
            "Check": grpc.unary_unary_rpc_method_handler(self.check),
            "Watch": grpc.unary_stream_rpc_method_handler(self.watch),
        }

    def check(self, data: bytes, context: Any) -> bytes:
        """Answer once; NOT_FOUND for a service that is not served here."""
        import grpc

        if self._asked(data, context) not in self._services:
            context.abort(grpc.StatusCode.NOT_FOUND, "the service is not served here")
        return _response(self._status())

    def watch(self, data: bytes, context: Any) -> Iterator[bytes]:
        """Answer now and at every change, until the caller hangs up."""
        import grpc

        known = self._asked(data, context) in self._services
        if not self._watchers.acquire(blocking=False):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "{} callers watch already".format(WATCHERS))
        try:
            gone = threading.Event()
            told, alive = None, context.add_callback(gone.set)
            while alive and not gone.is_set():
                status = self._status() if known else UNKNOWN_SERVICE
                if status != told:
                    yield _response(status)
                    told = status
                gone.wait(LOOK_S if known else None)
        finally:
            self._watchers.release()

    def _status(self) -> int:
        return SERVING if self._ready() else NOT_SERVING

    def _asked(self, data: bytes, context: Any) -> str:
        import grpc
        from google.protobuf.message import DecodeError

        try:
            return str(messages()["HealthCheckRequest"].FromString(data).service)
        except DecodeError:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the bytes are not a HealthCheckRequest")
            raise


def _response(status: int) -> bytes:
    data: bytes = messages()["HealthCheckResponse"](status=status).SerializeToString()
    return data
