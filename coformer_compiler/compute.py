"""Where tensors are computed."""

from __future__ import annotations

import torch


def computing_device() -> torch.device:
    """The first CUDA device where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
