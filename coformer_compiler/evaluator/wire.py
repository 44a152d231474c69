"""What a request and its answers weigh on the wire."""

from __future__ import annotations

import math

import numpy as np

from coformer_compiler.model.spec import InputSpec
from coformer_runtime.wire import HEADER

GRPC_PREFIX, HTTP2_FRAME = 5, 9
"""Bytes before a gRPC message (compressed flag, length), and of the HTTP/2 DATA frame around it (RFC 9113, 4.1)."""

OVERHEAD_BYTES: int = HTTP2_FRAME + GRPC_PREFIX + HEADER.size
"""Bytes around a tensor: headers of the runtime, gRPC and HTTP/2.

TCP, IP and Ethernet headers come on top; they hang on the path's packet size.
"""


def input_bytes(given: InputSpec) -> int:
    """Bytes of a frame with one input."""
    return OVERHEAD_BYTES + math.prod(given.shape) * np.dtype(given.dtype).itemsize
