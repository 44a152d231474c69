"""What one answer of a member weighs on the wire."""

from __future__ import annotations

from coformer_runtime.wire import HEADER

GRPC_PREFIX, HTTP2_FRAME = 5, 9
"""Bytes before a gRPC message (compressed flag, length), and of the HTTP/2 DATA frame around it (RFC 9113, 4.1)."""


def features_bytes(features: int) -> int:
    """Bytes of a frame with `features` float32 numbers, headers of the runtime, gRPC and HTTP/2 included.

    TCP, IP and Ethernet headers come on top; they hang on the path's packet size.
    """
    return HTTP2_FRAME + GRPC_PREFIX + HEADER.size + 4 * features
