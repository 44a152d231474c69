"""What a data kind of texts delivers: the texts themselves; they become token numbers in one place, `data/load.py`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coformer_compiler.data.dataset import Labels, stratified_order
from coformer_compiler.tasks import CLASSIFICATION, Task

HELD_OUT = 0.15
"""Share of the samples that makes a split which has no file of its own."""
SPLIT_SEED = 0


@dataclass(frozen=True)
class Texts:
    """Texts, or pairs of texts, with their labels.

    Attributes:
        first: the texts.
        second: the other text of each, or none.
        labels: `(samples,)`.
    """

    first: tuple[str, ...]
    second: tuple[str, ...] | None
    labels: Labels

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.first)

    def part(self, rows: npt.NDArray[np.int64]) -> Texts:
        """The given samples."""
        return Texts(
            tuple(self.first[n] for n in rows),
            None if self.second is None else tuple(self.second[n] for n in rows),
            self.labels[rows],
        )


@dataclass(frozen=True)
class TextSplits:
    """The three splits of a source; see `Splits`. Tasks without classes have no class names.

    `notes` say what was left out, a line each.
    """

    train: Texts
    validation: Texts
    test: Texts
    class_names: tuple[str, ...]
    task: Task = CLASSIFICATION
    notes: tuple[str, ...] = ()


def shuffled(samples: int) -> npt.NDArray[np.int64]:
    """An order of samples without classes."""
    return stratified_order(np.zeros(samples, np.int64), SPLIT_SEED)


def held_out_from(whole: Texts, parts: int) -> list[Texts]:
    """`parts` stratified shares of `HELD_OUT` each, and the rest last."""
    order = stratified_order(whole.labels, SPLIT_SEED) if whole.labels.dtype == np.int64 else shuffled(len(whole))
    size = round(HELD_OUT * len(whole))
    return [whole.part(rows) for rows in np.split(order, [size * (n + 1) for n in range(parts)])]
