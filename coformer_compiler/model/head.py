"""Features to answers: a linear, in some families behind a pooler, in embedding models normalised."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import nn

from coformer_compiler.model.cost import Cost, linear_cost
from coformer_compiler.model.graph import GraphWriter, shape_of
from coformer_compiler.model.linear import linear_from, take_linear
from coformer_compiler.model.mlp import ACTIVATIONS, lower_activation
from coformer_compiler.model.spec import HeadSpec

SHORTEST = 1e-12
"""Answers are divided by their length or by this, whichever is more."""


class Head(nn.Module):
    """Features `(batch, features)` to answers `(batch, classes)`.

    With a pooler (BERT's) these are two linears with an activation between them.
    """

    def __init__(self, features: int, spec: HeadSpec) -> None:
        """Fresh weights; importers and the transplant overwrite them."""
        super().__init__()
        self.spec = spec
        self.pooler = None if spec.hidden is None else nn.Linear(features, spec.hidden)
        self.linear = nn.Linear(features if spec.hidden is None else spec.hidden, spec.classes)

    @classmethod
    def assemble(cls, spec: HeadSpec, linear: nn.Linear, pooler: nn.Linear | None = None) -> Head:
        """A head of finished parts."""
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        made.spec, made.pooler, made.linear = spec, pooler, linear
        return made

    @property
    def reader(self) -> nn.Linear:
        """The linear that reads the features."""
        return self.linear if self.pooler is None else self.pooler

    @property
    def features(self) -> int:
        """Width of the features."""
        return self.reader.in_features

    @property
    def classes(self) -> int:
        """Number of outputs."""
        return self.spec.classes

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """`(batch, features)` to `(batch, classes)`."""
        if self.pooler is not None:
            features = ACTIVATIONS[self.spec.activation](self.pooler(features))
        answer: torch.Tensor = self.linear(features)
        return F.normalize(answer, dim=-1, eps=SHORTEST) if self.spec.normalise else answer

    def after(self, weight: torch.Tensor, bias: torch.Tensor) -> Head:
        """The head of `weight · x + bias`: one linear like `reader`, multiplied out in double precision."""
        outer = self.reader.weight.detach().double()
        first = linear_from(
            outer @ weight.detach().to(outer), outer @ bias.detach().to(outer) + self.reader.bias.detach().double()
        )
        if self.pooler is None:
            return Head.assemble(self.spec, first).to(outer.device)
        return Head.assemble(self.spec, linear_from(self.linear.weight, self.linear.bias), first).to(outer.device)

    def copied(self) -> Head:
        """A head that owns its weights."""
        return self.take(None)

    def take(self, columns: Sequence[int] | None) -> Head:
        """Index selection of features."""
        if self.pooler is None:
            return Head.assemble(self.spec, take_linear(self.linear, None, columns))
        return Head.assemble(self.spec, take_linear(self.linear, None, None), take_linear(self.pooler, None, columns))

    def lower(self, graph: GraphWriter, name: str, x: ir.Value) -> ir.Value:
        """MatMul and Add, once or twice; ReduceL2, Max and Div where answers are normalised."""
        if self.pooler is not None:
            x = graph.linear(f"{name}.pooler", x, self.pooler.weight, self.pooler.bias)
            x = lower_activation(graph, f"{name}.activation", x, self.spec.activation)
        x = graph.linear(name, x, self.linear.weight, self.linear.bias)
        if not self.spec.normalise:
            return x
        shape = shape_of(x)
        axes = graph.shape(f"{name}.axes", [-1])
        length = graph.op("ReduceL2", f"{name}.length", [x, axes], (*shape[:-1], 1), {"keepdims": 1})
        least = graph.weight(f"{name}.shortest", torch.tensor(SHORTEST))
        length = graph.op("Max", f"{name}.divisor", [length, least], (*shape[:-1], 1))
        return graph.op("Div", f"{name}.normalised", [x, length], shape)

    def cost(self) -> Cost:
        """One linear, or two."""
        if self.pooler is None:
            return linear_cost(1, self.features, self.classes)
        hidden = self.pooler.out_features
        return linear_cost(1, self.features, hidden) + linear_cost(1, hidden, self.classes)
