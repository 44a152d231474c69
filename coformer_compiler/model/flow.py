"""What flows through a model from block to block; everyone who walks over the blocks carries it along."""

from __future__ import annotations

from typing import NamedTuple

import torch

from coformer_compiler.model.bridge import Bridge
from coformer_compiler.model.memory import Memory
from coformer_compiler.model.merge import Merge
from coformer_compiler.model.residual import Residual
from coformer_compiler.model.stem import Stem

Block = Residual | Merge | Bridge


class Flow(NamedTuple):
    """A batch between two blocks.

    Attributes:
        x: the stream, `(batch, tokens, width)`.
        mask: bool `(batch, tokens)`, which of them are no padding; None where there is none.
        memory: what the encoder has left, in a decoder that stands behind one.
    """

    x: torch.Tensor
    mask: torch.Tensor | None
    memory: Memory | None = None


def flow_from(stem: Stem, inputs: torch.Tensor) -> Flow:
    """What leaves a stem that reads `inputs`."""
    return Flow(stem(inputs), stem.mask(inputs))


def onward(block: Block, flow: Flow, inputs: torch.Tensor) -> Flow:
    """What leaves a block; `inputs` are the model's, of which a decoder reads its part at the bridge."""
    if isinstance(block, Bridge):
        return flow_from(block.stem, inputs)._replace(memory=block.memory(flow.x, flow.mask))
    if isinstance(block, Merge):
        return flow._replace(x=block(flow.x))
    return flow._replace(x=block(flow.x, flow.mask, flow.memory))
