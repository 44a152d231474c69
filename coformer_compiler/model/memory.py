"""The memory: what an encoder leaves to its decoder, one vector for each token that was read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import onnx_ir as ir
import torch

from coformer_compiler.model.padding import Padding


class Memory(NamedTuple):
    """A batch's memory.

    Attributes:
        tokens: the encoder's normed stream, `(batch, tokens, width)`.
        mask: bool `(batch, tokens)`, false where there is padding; None where there is none.
    """

    tokens: torch.Tensor
    mask: torch.Tensor | None


@dataclass(frozen=True)
class LoweredMemory:
    """A memory as values of a graph: float32 `(1, tokens, width)`, and its padding."""

    tokens: ir.Value
    padding: Padding | None
