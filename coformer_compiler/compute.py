"""Where tensors are computed."""

from __future__ import annotations

import torch

SMALL_FLOPS = 2e8
"""Teachers up to this size are computed with one thread."""


def use_fitting_threads(flops: int) -> None:
    """Compute a small model with one thread.

    Its products are so short that a second thread mostly waits for the first; on a busy machine they wait for each
    other (ten times slower was seen), and results would depend on the number of cores.
    """
    if flops <= SMALL_FLOPS:
        torch.set_num_threads(1)


def computing_device() -> torch.device:
    """The first CUDA device where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
