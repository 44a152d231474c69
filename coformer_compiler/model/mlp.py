"""The two-layer perceptron of a transformer layer, written as reader, mix and writer like attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import nn

from coformer_compiler.model.cost import Cost, linear_cost
from coformer_compiler.model.graph import GraphWriter, shape_of
from coformer_compiler.model.linear import take_linear
from coformer_compiler.model.memory import Memory
from coformer_compiler.model.padding import Padding
from coformer_compiler.model.spec import Activation, MlpSpec


class Mlp(nn.Module):
    """`(batch, tokens, embed)` to `(batch, tokens, out)` through `neurons` hidden units, which are its units.

    `reader` gives `(batch, tokens, neurons)`, or, gated, all gates and then all values, `2 · neurons`.
    """

    unit_name = "neurons"

    def __init__(self, spec: MlpSpec) -> None:
        """Fresh weights; importers and the transplant overwrite them."""
        super().__init__()
        self.spec = spec
        self.reader = nn.Linear(spec.embed, self.parts * spec.neurons, bias=spec.reader_bias)
        self.writer = nn.Linear(spec.neurons, spec.out, bias=spec.writer_bias)

    @property
    def parts(self) -> int:
        """How many rows of the reader a neuron owns: two with a gate."""
        return 2 if self.spec.gated else 1

    @property
    def units(self) -> int:
        """Number of neurons."""
        return self.spec.neurons

    @property
    def readers(self) -> tuple[nn.Linear, ...]:
        """The linear that reads the stream."""
        return (self.reader,)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None, memory: Memory | None = None) -> torch.Tensor:
        """`(batch, tokens, embed)` to `(batch, tokens, out)`; every token for itself, whatever the mask."""
        out: torch.Tensor = self.writer(self.mixed(x))
        return out

    def mixed(self, x: torch.Tensor, mask: torch.Tensor | None = None, memory: Memory | None = None) -> torch.Tensor:
        """What the writer reads, `(batch, tokens, neurons)`."""
        return self.mix(self.reader(x))

    def mix(self, read: torch.Tensor) -> torch.Tensor:
        """The activation, times the values where they are gated: `(batch, tokens, neurons)`."""
        active = ACTIVATIONS[self.spec.activation]
        if not self.spec.gated:
            return active(read)
        gates, values = read.chunk(2, -1)
        return active(gates) * values

    def reader_rows(self, neurons: Sequence[int]) -> tuple[list[int], ...]:
        """Rows of each of the readers that the given neurons own, in the layout of a smaller reader."""
        return ([part * self.spec.neurons + neuron for part in range(self.parts) for neuron in neurons],)

    def writer_columns(self, neurons: Sequence[int]) -> list[int]:
        """Columns of `writer` that the given neurons own."""
        return list(neurons)

    def with_units(self, neurons: Sequence[int], readers: Sequence[nn.Linear], writer: nn.Linear) -> Mlp:
        """An MLP made of the given linears, with as many neurons as given."""
        (reader,) = readers
        spec = replace(
            self.spec,
            embed=reader.in_features,
            out=writer.out_features,
            neurons=len(neurons),
            reader_bias=reader.bias is not None,
            writer_bias=writer.bias is not None,
        )
        with torch.device("meta"):
            made = Mlp(spec)
        made.reader, made.writer = reader, writer
        return made

    def take(self, neurons: Sequence[int], channels_in: Sequence[int], channels_out: Sequence[int]) -> Mlp:
        """Index selection: the given neurons, reading and writing the given channels."""
        (rows,) = self.reader_rows(neurons)
        reader = take_linear(self.reader, rows, channels_in)
        return self.with_units(neurons, [reader], take_linear(self.writer, channels_out, neurons))

    def lower(self, graph: GraphWriter, name: str, x: ir.Value, padding: Padding | None = None) -> ir.Value:
        """MatMul, activation, MatMul; gated, with a Split before and a Mul behind the activation."""
        read = graph.linear(f"{name}.reader", x, self.reader.weight, self.reader.bias)
        if not self.spec.gated:
            active = lower_activation(graph, f"{name}.activation", read, self.spec.activation)
        else:
            gates, values = graph.split(f"{name}.split", read, [self.spec.neurons] * 2)
            active = lower_activation(graph, f"{name}.activation", gates, self.spec.activation)
            active = graph.op("Mul", f"{name}.gated", [active, values], shape_of(values))
        return graph.linear(f"{name}.writer", active, self.writer.weight, self.writer.bias)

    def cost(self, tokens: int) -> Cost:
        """Two linears; the activation's input (gates and values) and output are alive together."""
        spec = self.spec
        reader = linear_cost(tokens, spec.embed, self.parts * spec.neurons, spec.reader_bias)
        writer = linear_cost(tokens, spec.neurons, spec.out, spec.writer_bias)
        return reader + Cost(0, 0, (self.parts + 1) * tokens * spec.neurons) + writer


def lower_activation(graph: GraphWriter, name: str, x: ir.Value, kind: Activation) -> ir.Value:
    """The activation as one node, or as the few that it is made of."""
    shape = shape_of(x)
    if kind in ("gelu", "gelu_tanh"):
        return graph.op("Gelu", name, [x], shape, {"approximate": "none" if kind == "gelu" else "tanh"})
    if kind in ("relu", "tanh"):
        return graph.op(kind.capitalize(), name, [x], shape)
    steepness = graph.weight(f"{name}.steepness", torch.tensor(1.702 if kind == "quick_gelu" else 1.0))
    scaled = graph.op("Mul", f"{name}.scaled", [x, steepness], shape)
    gate = graph.op("Sigmoid", f"{name}.gate", [scaled], shape)
    return graph.op("Mul", name, [x, gate], shape)


def _gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    return F.gelu(x, approximate="tanh")


def _quick_gelu(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[Activation, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": _gelu_tanh,
    "relu": F.relu,
    "silu": F.silu,
    "quick_gelu": _quick_gelu,
    "tanh": torch.tanh,
}
