"""The direction in which features of a LayerNorm do not vary.

Σ (f_i − bias_i) / gain_i = 0 whatever the image. What a regression finds along that direction is the rounding of
float32 features divided by a small penalty: of no effect, until training moves the gains and that weight becomes noise
in the logits. It also differs from one processor to the next. So it is taken out, with no change to any output.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from coformer_compiler.model.norm import Norm
from coformer_compiler.model.transformer import Transformer

SMALLEST_GAIN = 1e-6


@torch.no_grad()
def forget_still_directions(linear: nn.Linear, members: Sequence[Transformer]) -> None:
    """Change a linear over the members' features, side by side, so that it reads nothing along still directions."""
    weight, bias = linear.weight.double(), linear.bias.double()
    first = 0
    for member in members:
        norm, width = member.pool.norm, member.spec.embed
        for start in range(first, first + member.spec.features, width):
            if norm is not None and norm.spec.kind == "layer":
                direction, offset = _still_direction(norm, weight.device)
                along = weight[:, start : start + width] @ direction
                weight[:, start : start + width] -= torch.outer(along, direction)
                bias += along * offset
        first += member.spec.features
    linear.weight.copy_(weight)
    linear.bias.copy_(bias)


def _still_direction(norm: Norm, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """A unit vector, float64 `(width,)`, and the constant that features give along it."""
    one = torch.ones(norm.spec.width, dtype=torch.float64, device=device)
    gain = one if norm.weight is None else norm.weight.double()
    shift = 0 * one if norm.bias is None else norm.bias.double()
    direction = 1 / gain.abs().clamp(min=SMALLEST_GAIN).copysign(gain)
    direction = direction / direction.norm()
    return direction, shift @ direction
