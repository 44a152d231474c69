"""What a block costs to run: the quantities behind constraints C5 and C6."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """Cost of one forward pass of a batch of one.

    Attributes:
        flops: floating point operations, two per multiply-accumulate, matrix products only (as the paper counts).
        params: number of weights.
        peak_elements: the most activation elements alive at once.
        tables: those of the weights that are looked up, and not multiplied by.
        again: weights that a device holds a second time: those of blocks that a graph for prompts and one for single
            tokens have both.
        cached: elements of keys and values that one text keeps between its tokens.
    """

    flops: int = 0
    params: int = 0
    peak_elements: int = 0
    tables: int = 0
    again: int = 0
    cached: int = 0

    def __add__(self, other: Cost) -> Cost:
        """Costs one after the other: work and weights add up, the peak is the larger one."""
        return Cost(
            self.flops + other.flops,
            self.params + other.params,
            max(self.peak_elements, other.peak_elements),
            self.tables + other.tables,
            self.again + other.again,
            self.cached + other.cached,
        )


def linear_cost(rows: int, inputs: int, outputs: int, bias: bool = True) -> Cost:
    """Cost of `(rows, inputs) @ (inputs, outputs) + bias`."""
    return Cost(2 * rows * inputs * outputs, inputs * outputs + outputs * bias, rows * (inputs + outputs))
