"""What a plan is bound to: the exact library, the GPU and CUDA."""

import hashlib
from typing import Any, NamedTuple

from .cuda import Cuda


class Board(NamedTuple):
    """What this machine is, to a plan.

    Attributes:
        tensorrt: the exact version of TensorRT, "8.2.1.8".
        device: name of the GPU.
        sm: its compute capability times ten.
        cuda: version of CUDA, "10.2".
    """

    tensorrt: str
    device: str
    sm: int
    cuda: str

    def digest(self) -> str:
        """Return 16 hex digits that tell boards apart."""
        return hashlib.sha256(repr(tuple(self)).encode("utf-8")).hexdigest()[:16]


def board_here(trt: Any, cuda: Cuda) -> Board:
    """Return what this machine is."""
    device = cuda.device()
    return Board(str(trt.__version__), device.name, device.sm, device.cuda)
