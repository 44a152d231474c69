"""The bridge from an encoder to its decoder: the end of one stream, the memory, and the beginning of another stream."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import torch
from torch import nn

from coformer_compiler.model.cost import Cost
from coformer_compiler.model.graph import GraphWriter
from coformer_compiler.model.memory import LoweredMemory, Memory
from coformer_compiler.model.norm import Norm
from coformer_compiler.model.padding import Padding
from coformer_compiler.model.spec import BridgeSpec
from coformer_compiler.model.token_stem import TokenStem


class Bridge(nn.Module):
    """An encoder's final norm, which makes the memory, and the stem of its decoder.

    It has no units and is never dropped; what a member chooses are the widths on both sides.
    """

    def __init__(self, spec: BridgeSpec) -> None:
        """A norm of gain one, tables of zeros; importers and the transplant overwrite them."""
        super().__init__()
        assert spec.stem.norm is None and spec.stem.mix is None, "see BridgeSpec"
        self.start = spec.start
        self.norm, self.stem = Norm(spec.norm), TokenStem(spec.stem)

    @classmethod
    def assemble(cls, norm: Norm, stem: TokenStem, start: int) -> Bridge:
        """A bridge of finished parts."""
        with torch.device("meta"):
            made = cls(BridgeSpec(norm.spec, stem.spec, start))
        made.norm, made.stem = norm, stem
        return made

    @property
    def spec(self) -> BridgeSpec:
        """The shapes as they are now."""
        return BridgeSpec(self.norm.spec, self.stem.spec, self.start)

    def memory(self, x: torch.Tensor, mask: torch.Tensor | None) -> Memory:
        """What the encoder's stream `(batch, tokens, width)` leaves behind."""
        return Memory(self.norm(x), mask)

    def take(self, channels_in: Sequence[int], channels_out: Sequence[int]) -> Bridge:
        """Index selection of stream channels on both sides."""
        return Bridge.assemble(self.norm.take(channels_in), self.stem.take(channels_out), self.start)

    def lower(
        self, graph: GraphWriter, name: str, x: ir.Value, padding: Padding | None
    ) -> tuple[LoweredMemory, ir.Value, Padding]:
        """The memory, the decoder's tokens and their padding."""
        memory = LoweredMemory(self.norm.lower(graph, f"{name}.norm", x), padding)
        return memory, *self.stem.lower_from(graph, f"{name}.stem", graph.inputs[0])

    def cost(self, tokens: int) -> Cost:
        """Norm and tables; `tokens` are the encoder's."""
        return self.norm.cost(tokens) + self.stem.cost()
