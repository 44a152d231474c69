"""Pixels to tokens: normalisation, patch embedding, prefix tokens and positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import nn

from coformer_compiler.model.cost import Cost, linear_cost
from coformer_compiler.model.graph import GraphWriter
from coformer_compiler.model.linear import linear_from
from coformer_compiler.model.norm import Norm
from coformer_compiler.model.spec import PatchStemSpec


class PatchStem(nn.Module):
    """uint8 pixels `(batch, channels, height, width)` to tokens `(batch, tokens, out)`.

    `mean` and `std` are in pixel units (0 to 255) per channel. `prefix` holds the prefix tokens with their positions
    added in; `positions` those of the patches.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, spec: PatchStemSpec) -> None:
        """Fresh weights and a normalisation that changes nothing."""
        super().__init__()
        self.spec = spec
        self.register_buffer("mean", torch.zeros(spec.channels))
        self.register_buffer("std", torch.ones(spec.channels))
        self.patches = nn.Conv2d(spec.channels, spec.embed, spec.patch_size, spec.patch_size)
        self.prefix = nn.Parameter(torch.zeros(spec.prefix, spec.embed))
        table = torch.zeros(spec.tokens - spec.prefix, spec.embed)
        self.positions = nn.Parameter(table) if spec.positions else None
        self.norm = None if spec.norm is None else Norm(spec.norm)
        self.mix = None if spec.mix is None else nn.Linear(spec.embed, spec.mix)

    def mask(self, pixels: torch.Tensor) -> None:
        """None: an image has no padding."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Tokens `(batch, tokens, out)` of pixels in 0 to 255, uint8 or float."""
        tokens = self.embed(pixels)
        if self.norm is not None:
            tokens = self.norm(tokens)
        return tokens if self.mix is None else self.mix(tokens)

    def embed(self, pixels: torch.Tensor) -> torch.Tensor:
        """Tokens `(batch, tokens, embed)` before norm and mix."""
        scaled = (pixels.to(self.mean.dtype) - self.mean[:, None, None]) / self.std[:, None, None]
        patches = F.conv2d(scaled, self.patches.weight, self.patches.bias, self.spec.patch_size)
        patches = patches.flatten(2).transpose(1, 2)
        if self.positions is not None:
            patches = patches + self.positions
        return torch.cat([self.prefix.expand(len(pixels), -1, -1), patches], 1)

    def take(self, channels: Sequence[int]) -> PatchStem:
        """Index selection of stream channels.

        Raises:
            ValueError: if the stem has a mix, whose output channels are not the embedding's.
        """
        if self.mix is not None:
            raise ValueError("the stem has a mix matrix and no channels to select")
        selection = torch.eye(self.spec.embed)[list(channels)]
        made = self.project(selection)
        if self.norm is not None:
            made.norm = self.norm.take(channels)
            made.spec = replace(made.spec, norm=made.norm.spec)
        return made

    def project(self, basis: torch.Tensor) -> PatchStem:
        """The same embedding seen through `basis` `(width, embed)`: every weight is multiplied by it.

        No norm, no mix.
        """
        made = PatchStem(replace(self.spec, embed=len(basis), norm=None, mix=None))
        basis = basis.double()
        with torch.no_grad():
            made.mean.copy_(self.mean)
            made.std.copy_(self.std)
            made.patches.weight.copy_(torch.einsum("ne,ecij->ncij", basis, self.patches.weight.double()))
            assert self.patches.bias is not None and made.patches.bias is not None
            made.patches.bias.copy_(basis @ self.patches.bias.double())
            made.prefix.copy_(self.prefix.double() @ basis.T)
            if self.positions is not None and made.positions is not None:
                made.positions.copy_(self.positions.double() @ basis.T)
        return made

    def with_norm(self, norm: Norm, weight: torch.Tensor, bias: torch.Tensor) -> PatchStem:
        """Put `norm` and the linear `weight` (out, embed), `bias` (out) behind the embedding."""
        self.norm, self.mix = norm, linear_from(weight, bias)
        self.spec = replace(self.spec, norm=norm.spec, mix=len(weight))
        return self

    def lower(self, graph: GraphWriter, name: str, batch: int = 1) -> tuple[ir.Value, None]:
        """Cast, Sub, Mul, Conv, then tokens, without padding; a pass folds the normalisation into the Conv."""
        spec, embed = self.spec, self.spec.embed
        image = (batch, spec.channels, *spec.image_size)
        pixels = graph.input(spec.input.name, ir.DataType.UINT8, image)
        x = graph.op("Cast", f"{name}.cast", [pixels], image, {"to": int(ir.DataType.FLOAT)})
        x = graph.op("Sub", f"{name}.centred", [x, graph.weight(f"{name}.mean", self.mean[None, :, None, None])], image)
        x = graph.op(
            "Mul", f"{name}.scaled", [x, graph.weight(f"{name}.inverse_std", 1 / self.std[None, :, None, None])], image
        )
        weights = [graph.weight(f"{name}.patches.weight", self.patches.weight)]
        assert self.patches.bias is not None
        weights.append(graph.weight(f"{name}.patches.bias", self.patches.bias))
        conv = {"kernel_shape": list(spec.patch_size), "strides": list(spec.patch_size)}
        x = graph.op("Conv", f"{name}.patches", [x, *weights], (batch, embed, *spec.grid), conv)
        count = spec.tokens - spec.prefix
        x = graph.op(
            "Reshape",
            f"{name}.flat",
            [x, graph.shape(f"{name}.flat.shape", [batch, embed, count])],
            (batch, embed, count),
        )
        x = graph.op("Transpose", f"{name}.tokens", [x], (batch, count, embed), {"perm": [0, 2, 1]})
        if self.positions is not None:
            positions = graph.weight(f"{name}.positions", self.positions[None])
            x = graph.op("Add", f"{name}.placed", [x, positions], (batch, count, embed))
        if spec.prefix:
            prefix = graph.weight(f"{name}.prefix", self.prefix[None].expand(batch, -1, -1))
            x = graph.op("Concat", f"{name}.sequence", [prefix, x], (batch, spec.tokens, embed), {"axis": 1})
        if self.norm is not None:
            x = self.norm.lower(graph, f"{name}.norm", x)
        if self.mix is not None:
            x = graph.linear(f"{name}.mix", x, self.mix.weight, self.mix.bias)
        return x, None

    def cost(self) -> Cost:
        """The patch convolution, the tokens' parameters, norm and mix."""
        spec = self.spec
        count = spec.tokens - spec.prefix
        patch = spec.channels * spec.patch_size[0] * spec.patch_size[1]
        placed = spec.tokens if spec.positions else spec.prefix
        total = linear_cost(count, patch, spec.embed) + Cost(0, placed * spec.embed)
        if self.norm is not None:
            total += self.norm.cost(spec.tokens)
        return total if self.mix is None else total + linear_cost(spec.tokens, spec.embed, self.mix.out_features)
