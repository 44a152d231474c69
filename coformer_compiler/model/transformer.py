"""The whole model: stem, residual sub-blocks in one or more stages, pool and head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir
import torch
from torch import nn

from coformer_compiler.model.cost import Cost
from coformer_compiler.model.graph import GraphWriter
from coformer_compiler.model.head import Head
from coformer_compiler.model.mapped import MappedTensors
from coformer_compiler.model.merge import PARTS, Merge
from coformer_compiler.model.pool import Pool
from coformer_compiler.model.residual import Residual
from coformer_compiler.model.spec import MergeSpec, TransformerSpec
from coformer_compiler.model.stem import Stem, stem_from_spec

FEATURES_NAME = "features"
LOGITS_NAME = "logits"


@dataclass(frozen=True)
class Selection:
    """What an index slice keeps.

    Attributes:
        channels: stream channels of each stage.
        heads: kept heads by layer; a layer that is absent is dropped.
        neurons: kept MLP neurons by layer.
    """

    channels: tuple[tuple[int, ...], ...]
    heads: Mapping[int, tuple[int, ...]]
    neurons: Mapping[int, tuple[int, ...]]

    def units(self, kind: str, layer: int) -> tuple[int, ...] | None:
        """Kept units of one sub-block, or None where the layer is dropped."""
        return (self.heads if kind == "attention" else self.neurons).get(layer)


class Transformer(nn.Module):
    """Inputs `(batch, *spec.stem.input.shape)` to logits `(batch, classes)` by way of features `(batch, features)`.

    Of a causal model both have an axis of tokens behind the batch: what each token tells of the next one.

    Attributes:
        mapped: the file that the weights lie in, of a model that was loaded.
    """

    mapped: MappedTensors | None = None

    def __init__(self, spec: TransformerSpec) -> None:
        """Fresh weights of the spec's shapes."""
        super().__init__()
        self.stem: Stem = stem_from_spec(spec.stem)
        self.blocks = nn.ModuleList(
            Merge(block) if isinstance(block, MergeSpec) else Residual(block) for block in spec.blocks
        )
        self.pool = Pool(spec.pool)
        self.head = Head(spec.features, spec.head)

    @classmethod
    def assemble(cls, stem: Stem, blocks: Sequence[Residual | Merge], pool: Pool, head: Head) -> Transformer:
        """A model from finished parts."""
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        made.stem, made.blocks, made.pool, made.head = stem, nn.ModuleList(blocks), pool, head
        return made

    @property
    def spec(self) -> TransformerSpec:
        """The shapes as they are now."""
        blocks = tuple(block.spec for block in self.steps)
        return TransformerSpec(self.stem.spec, blocks, self.pool.spec, self.head.spec)

    @property
    def steps(self) -> list[Residual | Merge]:
        """The blocks, typed."""
        return [block for block in self.blocks if isinstance(block, Residual | Merge)]

    @property
    def residuals(self) -> list[Residual]:
        """The residual sub-blocks."""
        return [block for block in self.blocks if isinstance(block, Residual)]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.linear.weight.device

    def release(self, part: nn.Module | None = None) -> None:
        """Give back the memory of mapped weights, of all or of one part: they are read again when they are needed."""
        if self.mapped is not None:
            self.mapped.release((part or self).parameters())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits `(batch, classes)`."""
        logits: torch.Tensor = self.head(self.features(inputs))
        return logits

    def features(self, inputs: torch.Tensor) -> torch.Tensor:
        """Pooled features `(batch, features)`, of a causal model `(batch, tokens, features)`."""
        mask = self.stem.mask(inputs)
        x = self.stem(inputs)
        for block in self.steps:
            x = block(x) if isinstance(block, Merge) else block(x, mask)
            self.release(block)
        features: torch.Tensor = self.pool(x, mask)
        return features

    def sent(self, inputs: torch.Tensor) -> torch.Tensor:
        """What a member sends, `(batch, features)`: its features, of a causal model those of the last token."""
        return self.pool.sent(self.features(inputs), self.stem.mask(inputs))

    def take(self, selection: Selection) -> Transformer:
        """Index slicing: the model made of the selected layers, heads, neurons and channels, weights unchanged.

        Taking is associative: taking from a slice equals taking the composed indices from the original.
        """
        stages = iter(selection.channels)
        channels = next(stages)
        stem, blocks = self.stem.take(channels), list[Residual | Merge]()
        for block in self.steps:
            if isinstance(block, Merge):
                before, channels = channels, next(stages)
                blocks.append(block.take(before, channels))
                continue
            units = selection.units(block.kind, block.layer)
            if units is not None:
                blocks.append(block.take(units, channels))
            self.release(block)
        columns = self.pool.feature_columns(channels, self.spec.embed)
        return Transformer.assemble(stem, blocks, self.pool.take(channels), self.head.take(columns))

    def lower(self, name: str, *, with_head: bool = False) -> ir.Model:
        """The ONNX model from the stem's input to `features` for a batch of one, or to `logits` with the head."""
        graph = GraphWriter()
        x, padding = self.stem.lower(graph, "stem")
        for block_name, block in zip(self.spec.block_names, self.steps, strict=True):
            if isinstance(block, Merge):
                x = block.lower(graph, block_name, x)
            else:
                x = block.lower(graph, block_name, x, padding)
        x = self.pool.lower(graph, "pool", x, padding)
        if with_head:
            return graph.model(name, self.head.lower(graph, "head", x), LOGITS_NAME)
        return graph.model(name, x, FEATURES_NAME)

    def cost(self, *, with_head: bool = False) -> Cost:
        """Cost of one forward pass of one sample; a member leaves the head to the aggregator."""
        tokens = self.stem.spec.tokens
        total = self.stem.cost()
        for block in self.steps:
            total += block.cost(tokens)
            tokens = tokens // PARTS if isinstance(block, Merge) else tokens
        total += self.pool.cost(tokens)
        return total + self.head.cost() if with_head else total
