"""Inputs from clients at a worker: the features go to the central nodes, nothing but "taken" goes back."""

import threading
import time
from typing import Any, Callable, Dict

from . import wire
from .errors import CoformerError
from .exchange import Exchange, Item

MAX_SUBMITTED = 16  # inputs at a time


def submit_methods(exchange: Exchange) -> Dict[str, Any]:
    """Return method name → gRPC handler of a worker that takes inputs from clients."""
    import grpc

    return {wire.SUBMIT_NAME: grpc.unary_unary_rpc_method_handler(submitting(exchange))}


def submitting(exchange: Exchange) -> Callable[[bytes, Any], bytes]:
    """Return the handler: a REQUEST frame whose id has the bit BROADCAST, answered with no bytes at all.

    INVALID_ARGUMENT or FAILED_PRECONDITION: the frame is wrong, or of another build. RESOURCE_EXHAUSTED: too many at
    a time. UNAVAILABLE: no central node has a stream here.
    """
    admitted = threading.BoundedSemaphore(MAX_SUBMITTED)

    def handle(data: bytes, context: Any) -> bytes:
        from grpc import StatusCode

        arrived = time.monotonic()
        try:
            frame = wire.decode_frame(data)
        except CoformerError as error:
            context.abort(StatusCode.INVALID_ARGUMENT, str(error))
            raise
        if frame.kind != wire.REQUEST or not frame.request_id & wire.BROADCAST:
            context.abort(StatusCode.INVALID_ARGUMENT, "a request with an id of a client was due")
        if frame.build == wire.ANY_BUILD:
            frame = frame._replace(build=exchange.build)
        refused = exchange.refusal(frame)
        if refused is not None:
            said = wire.decode_frame(refused)
            wrong = said.status == wire.BAD_REQUEST
            context.abort(
                StatusCode.INVALID_ARGUMENT if wrong else StatusCode.FAILED_PRECONDITION, str(wire.frame_error(said))
            )
        if not admitted.acquire(blocking=False):
            context.abort(StatusCode.RESOURCE_EXHAUSTED, "{} inputs are being computed".format(MAX_SUBMITTED))
        try:
            if not exchange.push(exchange.answer(Item(arrived, frame), frame)):
                context.abort(StatusCode.UNAVAILABLE, "no central node has a stream here")
        finally:
            admitted.release()
        return b""

    return handle
