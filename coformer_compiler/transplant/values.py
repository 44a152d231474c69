"""What a member's heads carry: values by reduced-rank regression, given where the heads look.

A head's attention weights are fitted to the teacher's. What it gathers with them need not be what the teacher's head
gathers: the member has fewer heads, and each can bring along what is missing of the others. Regressing what the
attention has to write on the stream as every head attends to it gives one matrix `(outputs, width)` a head; the best
approximation of rank head_dim to it is a writer times values (reduced-rank regression, Izenman 1975).
"""

from __future__ import annotations

import torch

from coformer_compiler.transplant.regression import Gram

LARGEST_GRAM = 2560
"""Columns of the regression (heads · width, and the shortcut's) above which the teacher's values are kept: its cost
grows with their square, and members so wide miss little."""


def prior_of_heads(writer: torch.Tensor, values: torch.Tensor, heads: int) -> torch.Tensor:
    """`(outputs, heads · width)`: what each head writes of the stream that it attends to.

    Args:
        writer: `(outputs, heads · head_dim)`.
        values: `(heads · head_dim, width)`.
        heads: how many.
    """
    parts = zip(writer.chunk(heads, 1), values.chunk(heads), strict=True)
    return torch.cat([written @ gathered for written, gathered in parts], 1)


def values_of_heads(weight: torch.Tensor, gram: Gram, heads: int, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Values `(heads · dim, width)` and their writer `(outputs, heads · dim)` for a regression's weight.

    The product of both is next to `weight`, head by head, where the streams are: in the metric of their covariance.
    Values and writer share the singular values evenly, so that neither is large in half precision.

    Args:
        weight: float64 `(outputs, heads · width)`.
        gram: of the regression; its last `heads · width` inputs are the streams.
        heads: how many.
        dim: values of a head.
    """
    mean = gram.x / max(gram.rows, 1)
    covariance = (gram.xx - torch.outer(gram.x, mean)) / max(gram.rows, 1)
    width = weight.shape[1] // heads
    values, writers = [], []
    for head, own in enumerate(weight.chunk(heads, 1)):
        first = len(covariance) - (heads - head) * width
        block = covariance[first : first + width, first : first + width]
        # Not Cholesky: the stream does not move along some directions, and sums in float32 leave these below zero.
        variances, directions = torch.linalg.eigh(block)
        floor = 1e-6 * variances.mean().clamp(min=torch.finfo(block.dtype).tiny)
        root = directions * variances.clamp(min=floor).sqrt()
        left, sizes, _ = torch.linalg.svd(own @ root, full_matrices=False)
        kept = min(dim, len(sizes))
        share = sizes[:kept].sqrt()
        gathered = torch.where(share > 0, 1 / share, 0)[:, None] * (left[:, :kept].T @ own)
        values.append(torch.nn.functional.pad(gathered, (0, 0, 0, dim - kept)))
        writers.append(torch.nn.functional.pad(left[:, :kept] * share, (0, dim - kept)))
    return torch.cat(values), torch.cat(writers, 1)
