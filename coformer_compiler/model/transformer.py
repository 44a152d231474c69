"""The whole model: stem, residual sub-blocks in one or more stages, pool and head."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx_ir as ir
import torch
from torch import nn

from coformer_compiler.model.bridge import Bridge
from coformer_compiler.model.cost import Cost
from coformer_compiler.model.flow import Block, Flow, flow_from, onward
from coformer_compiler.model.graph import GraphWriter
from coformer_compiler.model.head import Head
from coformer_compiler.model.mapped import MappedTensors
from coformer_compiler.model.memory import LoweredMemory
from coformer_compiler.model.merge import PARTS, Merge
from coformer_compiler.model.norm import Norm
from coformer_compiler.model.pool import Pool
from coformer_compiler.model.residual import Residual
from coformer_compiler.model.spec import BridgeSpec, Kind, MergeSpec, ResidualSpec, TransformerSpec
from coformer_compiler.model.stem import Stem, stem_from_spec

FEATURES_NAME = "features"
LOGITS_NAME = "logits"

GROUPS, LIKE_TEXTS = 4, 32
"""By how many lengths a batch of texts is computed, and how many texts are not worth parting."""


@dataclass(frozen=True)
class Selection:
    """What an index slice keeps.

    Attributes:
        channels: stream channels of each stage.
        heads: kept heads by layer; a layer that is absent is dropped.
        neurons: kept MLP neurons by layer.
        cross: kept heads of cross-attention by layer, of those layers that have it.
    """

    channels: tuple[tuple[int, ...], ...]
    heads: Mapping[int, tuple[int, ...]]
    neurons: Mapping[int, tuple[int, ...]]
    cross: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    def units(self, kind: Kind, layer: int) -> tuple[int, ...] | None:
        """Kept units of one sub-block, or None where the layer is dropped."""
        if layer not in self.heads:
            return None
        return {"attention": self.heads, "cross": self.cross, "mlp": self.neurons}[kind][layer]


def block_from_spec(spec: ResidualSpec | MergeSpec | BridgeSpec) -> Block:
    """A block of fresh weights."""
    if isinstance(spec, BridgeSpec):
        return Bridge(spec)
    return Merge(spec) if isinstance(spec, MergeSpec) else Residual(spec)


class Transformer(nn.Module):
    """Inputs `(batch, *spec.stem.input.shape)` to logits `(batch, classes)` by way of features `(batch, features)`.

    Of a causal model both have an axis of tokens behind the batch: what each token tells of the next one. Of an encoder
    and decoder, whose inputs are what is read with what is written behind it, these are the decoder's.

    Attributes:
        mapped: the file that the weights lie in, of a model that was loaded.
    """

    mapped: MappedTensors | None = None

    def __init__(self, spec: TransformerSpec) -> None:
        """Fresh weights of the spec's shapes."""
        super().__init__()
        self.stem: Stem = stem_from_spec(spec.stem)
        self.blocks = nn.ModuleList(block_from_spec(block) for block in spec.blocks)
        self.pool = Pool(spec.pool)
        self.head = Head(spec.features, spec.head)

    @classmethod
    def assemble(cls, stem: Stem, blocks: Sequence[Block], pool: Pool, head: Head) -> Transformer:
        """A model from finished parts."""
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        made.stem, made.blocks, made.pool, made.head = stem, nn.ModuleList(blocks), pool, head
        return made

    @classmethod
    def blank(cls, spec: TransformerSpec, device: torch.device | str = "cpu") -> Transformer:
        """A model of zeros, with norms that change nothing: for weights to come, which fresh ones would cost time."""
        with torch.device("meta"):
            made = cls(spec)
        made = made.to_empty(device=device)
        with torch.no_grad():
            for tensor in (*made.parameters(), *made.buffers()):
                tensor.zero_()
            for module in made.modules():
                if isinstance(module, Norm) and module.weight is not None:
                    module.weight.fill_(1)
        return made

    @property
    def spec(self) -> TransformerSpec:
        """The shapes as they are now."""
        blocks = tuple(block.spec for block in self.steps)
        return TransformerSpec(self.stem.spec, blocks, self.pool.spec, self.head.spec)

    @property
    def steps(self) -> list[Block]:
        """The blocks, typed."""
        return [block for block in self.blocks if isinstance(block, Block)]

    @property
    def residuals(self) -> list[Residual]:
        """The residual sub-blocks."""
        return [block for block in self.blocks if isinstance(block, Residual)]

    @property
    def bridge(self) -> Bridge | None:
        """What joins encoder and decoder; None for models of one of them."""
        return next((block for block in self.steps if isinstance(block, Bridge)), None)

    @property
    def texts(self) -> Stem:
        """The stem of the text that a causal model continues: the decoder's where there is an encoder."""
        return self.stem if self.bridge is None else self.bridge.stem

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
        """Pooled features `(batch, features)`, of a causal model `(batch, tokens, features)`.

        Padding comes last and counts nowhere, so texts that are read whole are computed in groups of like length, each
        without the places that none of it needs: the features stay, and most of the time goes.
        """
        groups = self.of_like_length(inputs)
        if groups is None:
            return self._pooled(inputs)
        pooled = torch.cat([self._pooled(part) for _, part in groups])
        return pooled[torch.cat([rows for rows, _ in groups]).argsort()]

    def _pooled(self, inputs: torch.Tensor) -> torch.Tensor:
        flow = self.flow(inputs)
        features: torch.Tensor = self.pool(flow.x, flow.mask)
        return features

    def of_like_length(self, inputs: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]] | None:
        """Texts in groups, each as long as its longest: (which of the batch, their inputs).

        None for what is no text, or a text that is not read whole.
        """
        mask = self.stem.mask(inputs)
        if mask is None or self.pool.spec.kind == "causal":
            return None
        lengths = mask.sum(1).clamp(min=self.pool.spec.count + 1)
        groups = lengths.argsort(stable=True).split(max(LIKE_TEXTS, math.ceil(len(inputs) / GROUPS)))
        return [(rows, inputs[rows, ..., : int(lengths[rows].max())]) for rows in groups]

    def flow(self, inputs: torch.Tensor) -> Flow:
        """What enters the pool."""
        flow = flow_from(self.stem, inputs)
        for block in self.steps:
            flow = onward(block, flow, inputs)
            self.release(block)
        return flow

    def feature_mask(self, inputs: torch.Tensor) -> torch.Tensor | None:
        """Which of a causal model's features are of no padding, bool `(batch, tokens)`; None for other models."""
        return self.texts.mask(inputs) if self.pool.spec.kind == "causal" else None

    def sent(self, inputs: torch.Tensor) -> torch.Tensor:
        """What a member sends, `(batch, features)`: its features, of a causal model those of the last token."""
        return self.pool.sent(self.features(inputs), self.feature_mask(inputs))

    def take(self, selection: Selection) -> Transformer:
        """Index slicing: the model made of the selected layers, heads, neurons and channels, weights unchanged.

        Taking is associative: taking from a slice equals taking the composed indices from the original.
        """
        stages = iter(selection.channels)
        channels = next(stages)
        stem, blocks = self.stem.take(channels), list[Block]()
        before: tuple[int, ...] | None = None
        for block in self.steps:
            if not isinstance(block, Residual):
                before, channels = channels, next(stages)
                blocks.append(block.take(before, channels))
                continue
            units = selection.units(block.kind, block.layer)
            if units is not None:
                blocks.append(block.take(units, channels, before))
            self.release(block)
        columns = self.pool.feature_columns(channels, self.spec.embed)
        return Transformer.assemble(stem, blocks, self.pool.take(channels), self.head.take(columns))

    def lower(self, name: str, *, batch: int = 1, with_head: bool = False) -> ir.Model:
        """The ONNX model from the stem's input, of `batch` samples, to `features`, or to `logits` with the head."""
        graph = GraphWriter()
        x, padding = self.stem.lower(graph, "stem", batch)
        memory: LoweredMemory | None = None
        for block_name, block in zip(self.spec.block_names, self.steps, strict=True):
            if isinstance(block, Bridge):
                memory, x, padding = block.lower(graph, block_name, x, padding)
            elif isinstance(block, Merge):
                x = block.lower(graph, block_name, x)
            else:
                x = block.lower(graph, block_name, x, padding, memory)
        x = self.pool.lower(graph, "pool", x, padding)
        if with_head:
            return graph.model(name, self.head.lower(graph, "head", x), LOGITS_NAME)
        return graph.model(name, x, FEATURES_NAME)

    def cost(self, *, with_head: bool = False) -> Cost:
        """Cost of one forward pass of one sample; a member leaves the head to the aggregator."""
        tokens = self.stem.spec.tokens
        total, remembered = self.stem.cost(), 0
        for block in self.steps:
            cost = block.cost(tokens)
            # Of a model that continues texts two graphs have the blocks; where an encoder reads them, each has its own.
            twice = cost.params if self.pool.spec.kind == "causal" and self.bridge is None else 0
            total += replace(cost, peak_elements=cost.peak_elements + remembered, again=twice)
            if isinstance(block, Bridge):
                remembered, tokens = tokens * block.norm.spec.width, block.stem.spec.tokens
            elif isinstance(block, Merge):
                tokens //= PARTS
        total += self.pool.cost(tokens)
        return total + self.head.cost() if with_head else total
