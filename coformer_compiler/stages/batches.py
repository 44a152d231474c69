"""Batches of a split as torch tensors, read piece by piece."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from coformer_compiler.data.dataset import Split

BATCH = 128


def batches_of(
    split: Split, device: torch.device | str = "cpu", batch: int = BATCH
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(inputs `(batch, …)`, labels `(batch,)` int64), in order."""
    for first in range(0, len(split), batch):
        part = slice(first, first + batch)
        inputs = torch.from_numpy(np.ascontiguousarray(split.inputs[part]))
        yield inputs.to(device), torch.from_numpy(np.ascontiguousarray(split.labels[part])).to(device)
