"""Addresses and gRPC servers, the same for a worker and for the central node."""

import os
import signal
import sys
import threading
from typing import Any, Callable, Dict, List, Optional, Tuple

from .errors import CoformerError
from .security import Security, add_port, parse_address, token_checks
from .wire import MAX_FRAME_BYTES

BOTH_SIDES: List[Tuple[str, int]] = [
    ("grpc.max_receive_message_length", MAX_FRAME_BYTES),
    ("grpc.max_send_message_length", MAX_FRAME_BYTES),
    ("grpc.keepalive_time_ms", 20000),
    ("grpc.keepalive_timeout_ms", 5000),
    # Where the library has this one it is what counts for a ping that is not answered, and it is a minute by default.
    ("grpc.http2.ping_timeout_ms", 5000),
]
CHANNEL_OPTIONS = BOTH_SIDES + [("grpc.enable_http_proxy", 0)]
SERVER_OPTIONS = BOTH_SIDES + [
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 10000),
    ("grpc.server_handshake_timeout_ms", 5000),
    ("grpc.keepalive_permit_without_calls", 1),
]
GRACE_S = 0.25
HANDSHAKE_S = 5.0


def open_server(
    services: Dict[str, Dict[str, Any]], address: str, security: Security, concurrency: int, open_to_all: str = ""
) -> Tuple[Any, str]:
    """Start a gRPC server with generic services.

    Args:
        services: full service name → method name → grpc method handler.
        address: HOST:PORT to listen on; port 0 picks a free one.
        security: who may call.
        concurrency: calls served at once; one more is refused with RESOURCE_EXHAUSTED.
        open_to_all: a service that needs no token.

    Returns:
        The started server and the address that it is bound to.
    """
    from concurrent.futures import ThreadPoolExecutor

    import grpc

    host, port = parse_address(address, security, "--listen")
    # The pool is larger than what is admitted: a refused call needs a thread for a moment as well.
    pool = ThreadPoolExecutor(max_workers=concurrency + 2, thread_name_prefix="call")
    checks = token_checks(security, open_to_all)
    server = grpc.server(pool, interceptors=checks, options=SERVER_OPTIONS, maximum_concurrent_rpcs=concurrency)
    for service, methods in services.items():
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
    shown = "[{}]".format(host) if ":" in host else host
    try:
        bound = add_port(server, "{}:{}".format(shown, port), security)
    except RuntimeError:  # grpcio from 1.60; older ones return 0
        bound = 0
    if bound == 0:
        raise CoformerError(
            "'{}' cannot be listened on".format(address), "--listen", "choose a free port, or 0 for any"
        )
    server.start()
    return server, "{}:{}".format(shown, bound)


def serve_until_stopped(server: Any, address: str, exit_with_stdin: bool) -> None:
    """Print "listening HOST:PORT", then wait for SIGTERM or SIGINT and stop the server.

    Args:
        server: a started gRPC server.
        address: where it listens.
        exit_with_stdin: stop as well when standard input closes, that is when the parent process is gone.
    """
    reading, writing = os.pipe()

    def stop(number: int, frame: Optional[object]) -> None:
        os.write(writing, b"x")

    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        if exit_with_stdin:
            threading.Thread(target=_watch_stdin, args=(writing,), name="stdin", daemon=True).start()
        sys.stdout.write("listening {}\n".format(address))
        sys.stdout.flush()
        os.read(reading, 1)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        server.stop(GRACE_S).wait()


def _watch_stdin(writing: int) -> None:
    # os.read: a daemon thread inside a buffered read aborts the interpreter when it exits.
    while os.read(0, 4096):
        pass
    os.write(writing, b"x")


def run_threads() -> int:
    """Return how many CPUs this process may use, the default for --threads."""
    affinity: Optional[Callable[[int], Any]] = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else (os.cpu_count() or 1)
