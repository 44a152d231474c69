"""Windows of a grid of tokens: in which order the tokens come window by window, and who may see whom."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch

from coformer_compiler.model.spec import WindowSpec

UNSEEN = -100.0
"""Added to the score of a token that is not to be seen, as Swin was trained; a finite value survives float16."""


class WindowTables(NamedTuple):
    """Constants of one window layout.

    Attributes:
        order: int64 `(tokens,)`, the grid's token at each place, window by window.
        back: int64 `(tokens,)`, the inverse.
        mask: float32 `(windows, 1, window tokens, window tokens)` of 0 and `UNSEEN`; None without a shift.
    """

    order: torch.Tensor
    back: torch.Tensor
    mask: torch.Tensor | None


@cache
@torch.inference_mode(False)
def window_tables(spec: WindowSpec, device: torch.device) -> WindowTables:
    """The tables of a layout, made once for each device."""
    (down, across), (high, wide), (up, left) = spec.grid, spec.size, spec.shift
    tokens = torch.arange(down * across).view(down, across)
    order = _window_by_window(tokens.roll((-up, -left), (0, 1)), spec)
    mask = None
    if up or left:
        # Moved windows at the lower and right edge hold tokens from both ends of the grid; each part keeps to itself.
        rows, columns = torch.arange(down), torch.arange(across)
        row_part = (rows >= down - high).long() + (rows >= down - up).long() if up else torch.zeros_like(rows)
        column_part = (
            (columns >= across - wide).long() + (columns >= across - left).long() if left else torch.zeros_like(columns)
        )
        parts = _window_by_window(row_part[:, None] * 3 + column_part, spec).view(spec.windows, spec.tokens)
        mask = ((parts[:, :, None] != parts[:, None, :]).float() * UNSEEN)[:, None].to(device)
    flat = order.flatten()
    return WindowTables(flat.to(device), flat.argsort().to(device), mask)


def _window_by_window(grid: torch.Tensor, spec: WindowSpec) -> torch.Tensor:
    (down, across), (high, wide) = spec.grid, spec.size
    return grid.view(down // high, high, across // wide, wide).transpose(1, 2).reshape(-1)
