"""The whole model: stem, residual sub-blocks, pool and head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir
import torch
from torch import nn

from coformer_compiler.model.cost import Cost, linear_cost
from coformer_compiler.model.graph import GraphWriter
from coformer_compiler.model.linear import take_linear
from coformer_compiler.model.pool import Pool
from coformer_compiler.model.residual import Residual
from coformer_compiler.model.spec import TransformerSpec
from coformer_compiler.model.stem import Stem

FEATURES_NAME = "features"
LOGITS_NAME = "logits"


@dataclass(frozen=True)
class Selection:
    """What an index slice keeps.

    Attributes:
        channels: stream channels.
        heads: kept heads by layer; a layer that is absent is dropped.
        neurons: kept MLP neurons by layer.
    """

    channels: tuple[int, ...]
    heads: Mapping[int, tuple[int, ...]]
    neurons: Mapping[int, tuple[int, ...]]

    def units(self, kind: str, layer: int) -> tuple[int, ...] | None:
        """Kept units of one sub-block, or None where the layer is dropped."""
        return (self.heads if kind == "attention" else self.neurons).get(layer)


class Transformer(nn.Module):
    """Pixels `(batch, channels, height, width)` to logits `(batch, classes)` by way of features `(batch, features)`."""

    def __init__(self, spec: TransformerSpec) -> None:
        """Fresh weights of the spec's shapes."""
        super().__init__()
        self.stem = Stem(spec.stem)
        self.blocks = nn.ModuleList(Residual(block) for block in spec.blocks)
        self.pool = Pool(spec.pool)
        self.head = nn.Linear(spec.features, spec.classes)

    @classmethod
    def assemble(cls, stem: Stem, blocks: Sequence[Residual], pool: Pool, head: nn.Linear) -> Transformer:
        """A model from finished parts."""
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        made.stem, made.blocks, made.pool, made.head = stem, nn.ModuleList(blocks), pool, head
        return made

    @property
    def spec(self) -> TransformerSpec:
        """The shapes as they are now."""
        blocks = tuple(block.spec for block in self.residuals)
        return TransformerSpec(self.stem.spec, blocks, self.pool.spec, self.head.out_features)

    @property
    def residuals(self) -> list[Residual]:
        """The sub-blocks, typed."""
        return [block for block in self.blocks if isinstance(block, Residual)]

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits `(batch, classes)`."""
        logits: torch.Tensor = self.head(self.features(pixels))
        return logits

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pooled features `(batch, features)`: what a member sends."""
        x = self.stem(pixels)
        for block in self.blocks:
            x = block(x)
        features: torch.Tensor = self.pool(x)
        return features

    def take(self, selection: Selection) -> Transformer:
        """Index slicing: the model made of the selected layers, heads, neurons and channels, weights unchanged.

        Taking is associative: taking from a slice equals taking the composed indices from the original.
        """
        channels = selection.channels
        blocks = []
        for block in self.residuals:
            units = selection.units(block.kind, block.layer)
            if units is not None:
                blocks.append(block.take(units, channels))
        columns = self.pool.feature_columns(channels, self.spec.embed)
        return Transformer.assemble(
            self.stem.take(channels), blocks, self.pool.take(channels), take_linear(self.head, None, columns)
        )

    def lower(self, name: str, *, with_head: bool = False) -> ir.Model:
        """The ONNX model from `pixels` to `features` for a batch of one, or to `logits` with the head."""
        graph = GraphWriter()
        x = self.stem.lower(graph, "stem")
        for block in self.residuals:
            x = block.lower(graph, f"layers.{block.layer}.{block.kind}", x)
        x = self.pool.lower(graph, "pool", x)
        if with_head:
            return graph.model(name, graph.linear("head", x, self.head.weight, self.head.bias), LOGITS_NAME)
        return graph.model(name, x, FEATURES_NAME)

    def cost(self, *, with_head: bool = False) -> Cost:
        """Cost of one forward pass of one image; a member leaves the head to the aggregator."""
        tokens = self.stem.spec.tokens
        total = self.stem.cost()
        for block in self.residuals:
            total += block.cost(tokens)
        total += self.pool.cost(tokens)
        if with_head:
            total += linear_cost(1, self.head.in_features, self.head.out_features)
        return total
