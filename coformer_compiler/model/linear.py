"""Indexing of linear layers, shared by all blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


def take_linear(linear: nn.Linear, rows: Sequence[int] | None, columns: Sequence[int] | None) -> nn.Linear:
    """A linear with the given output rows and input columns; None keeps all, in order."""
    weight, bias = linear.weight.detach(), None if linear.bias is None else linear.bias.detach()
    if rows is not None:
        weight = weight.index_select(0, torch.as_tensor(list(rows)))
        bias = None if bias is None else bias[list(rows)]
    if columns is not None:
        weight = weight.index_select(1, torch.as_tensor(list(columns)))
    return linear_from(weight, bias)


def linear_over(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    """A linear whose weights are these tensors, no copies: for models that are only read."""
    with torch.device("meta"):
        made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    made.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias, requires_grad=False)
    return made


def linear_from(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    """A float32 linear that owns copies of `weight` (out, in) and `bias` (out)."""
    made: nn.Linear = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], bias=bias is not None)
    with torch.no_grad():
        made.weight.copy_(weight)
        if bias is not None:
            made.bias.copy_(bias)
    return made
