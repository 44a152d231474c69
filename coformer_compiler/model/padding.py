"""Which tokens of a graph's sequence are padding, in the two forms that its blocks read."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
import torch

MASKED = -1e4
"""What padding adds to an attention score: a weight of zero after the softmax, and finite in half precision."""


@dataclass(frozen=True)
class Padding:
    """Values of a graph, computed once by the stem.

    Attributes:
        scores: float32 `(batch, 1, 1, tokens)`, zero for a token and `MASKED` for padding: attention adds it to
            its scores.
        real: float32 `(batch, tokens, 1)`, one for a token and zero for padding: the mean counts by it.
    """

    scores: ir.Value
    real: ir.Value


def score_mask(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`Padding.scores` of a mask `(batch, tokens)`, `(batch, 1, 1, tokens)`."""
    return (~mask).to(dtype)[:, None, None, :] * MASKED
