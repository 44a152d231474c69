"""Aggregation of the members' features: eq. (2), one linear per subset of devices, and the teacher's own head.

Pooling comes before the wire (pooling and the linear commute), so a member sends `d_n` numbers, not tokens × d_n.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import onnx_ir as ir
import torch
from torch import nn

from coformer_compiler.model.cost import Cost
from coformer_compiler.model.graph import GraphWriter
from coformer_compiler.model.head import Head
from coformer_compiler.model.transformer import LOGITS_NAME

ALL_SUBSETS_UP_TO = 4

Subset = tuple[int, ...]


def subsets_of(members: int) -> list[Subset]:
    """The subsets of `range(members)` that get an aggregator, largest first.

    All non-empty ones for up to four members; beyond that those that miss at most two, since their number doubles with
    every member.
    """
    smallest = 1 if members <= ALL_SUBSETS_UP_TO else members - 2
    return [
        subset for size in range(members, smallest - 1, -1) for subset in itertools.combinations(range(members), size)
    ]


def subset_name(subset: Sequence[int]) -> str:
    """File and parameter name of a subset, "0-2"."""
    return "-".join(str(member) for member in subset)


class Aggregator(nn.Module):
    """Features of the members that answered, to logits.

    For each subset S, `mixers[S]` maps the concatenated features `(batch, Σ d_n)` to the teacher's features
    `(batch, teacher_features)`; `head` is inherited from the teacher and shared.
    """

    def __init__(self, widths: Sequence[int], head: Head, subsets: Sequence[Subset] | None = None) -> None:
        """Untrained mixers for features of the given widths; `head` is copied."""
        super().__init__()
        self.widths = tuple(widths)
        self.subsets = tuple(subsets_of(len(widths)) if subsets is None else subsets)
        self.mixers = nn.ModuleDict(
            {subset_name(s): nn.Linear(sum(widths[n] for n in s), head.features) for s in self.subsets}
        )
        self.head = head.copied()

    def forward(self, features: Mapping[int, torch.Tensor]) -> torch.Tensor:
        """Logits `(batch, …, classes)` from `{member: (batch, …, d_n)}`; the keys say who takes part."""
        subset = tuple(sorted(features))
        logits: torch.Tensor = self.head(self.mixer(subset)(torch.cat([features[n] for n in subset], -1)))
        return logits

    def mixer(self, subset: Subset) -> nn.Linear:
        """The linear of one subset; KeyError where it has none."""
        mixer = self.mixers[subset_name(subset)]
        assert isinstance(mixer, nn.Linear)
        return mixer

    def columns(self, subset: Subset) -> list[int]:
        """Columns of all members' concatenated features that belong to `subset`."""
        starts = [sum(self.widths[:n]) for n in range(len(self.widths))]
        return [starts[n] + i for n in subset for i in range(self.widths[n])]

    def folded(self, subset: Subset) -> Head:
        """Mixer and head as one head of `Σ d_n` features: two linears in a row are one."""
        mixer = self.mixer(subset)
        return self.head.after(mixer.weight, mixer.bias)

    def lower(self, subset: Subset) -> ir.Model:
        """ONNX model with an input `features_N` `(1, d_n)` per member of the subset and the output `logits`."""
        graph = GraphWriter()
        inputs = [graph.input(f"features_{n}", ir.DataType.FLOAT, (1, self.widths[n])) for n in subset]
        width = sum(self.widths[n] for n in subset)
        x = inputs[0] if len(inputs) == 1 else graph.op("Concat", "aggregator.concat", inputs, (1, width), {"axis": 1})
        logits = self.folded(subset).lower(graph, "aggregator.mixer", x)
        return graph.model(f"aggregator-{subset_name(subset)}", logits, LOGITS_NAME)

    def cost(self) -> Cost:
        """Cost of the full subset's folded head, eq. (6) with S = 1."""
        with torch.device("meta"):
            return Head(sum(self.widths), self.head.spec).cost()
