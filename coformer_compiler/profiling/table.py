"""Many member shapes as arrays, so that thousands of candidates cost one pass over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from coformer_compiler.decomposer.shapes import MaybeShape

Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ShapeTable:
    """Shapes of members of one teacher.

    Attributes:
        embed: `(rows,)`; 0 for a device that is left out.
        heads: `(rows, layers)`, one column per layer of the teacher; 0 where the member has not the layer.
        neurons: likewise.
        shortcuts: `(rows,)`, 1 where every sub-block has a matrix in its shortcut, else 0.
    """

    embed: Integers
    heads: Integers
    neurons: Integers
    shortcuts: Integers

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.embed)

    def rows(self, chosen: Integers) -> ShapeTable:
        """Some of the rows, in the given order."""
        return ShapeTable(self.embed[chosen], self.heads[chosen], self.neurons[chosen], self.shortcuts[chosen])


def table_of_shapes(shapes: Sequence[MaybeShape], layers: int, *, shortcuts: Sequence[bool] | bool) -> ShapeTable:
    """The table of some shapes of a teacher with `layers` layers."""
    flags = [shortcuts] * len(shapes) if isinstance(shortcuts, bool) else shortcuts
    return ShapeTable(
        np.array([0 if shape is None else shape.embed for shape in shapes], np.int64),
        np.array([[shape.heads.get(k, 0) if shape else 0 for k in range(layers)] for shape in shapes], np.int64),
        np.array([[shape.neurons.get(k, 0) if shape else 0 for k in range(layers)] for shape in shapes], np.int64),
        np.array(flags, np.int64),
    )
