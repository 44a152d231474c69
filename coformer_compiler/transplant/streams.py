"""The streams of the teacher and the members at one point of the walk, in memory or, when large, in a mapped file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import torch


class Streams:
    """One float32 array `(samples, tokens, width)` per model; a context manager, since it may hold a temporary file.

    Number 0 is the teacher's. Each stage of the models has streams of its own.
    """

    def __init__(
        self, shape: tuple[int, int], widths: Sequence[int], batch: int, memory_bytes: int, device: torch.device
    ) -> None:
        """Arrays for `shape` = (samples, tokens) and the given widths; a file when they exceed `memory_bytes`."""
        (self.samples, self.tokens), self.batch, self.device = shape, batch, device
        self.rows, self.memory_bytes = shape[0] * shape[1], memory_bytes
        sizes = [shape[0] * shape[1] * width for width in widths]
        self.folder = tempfile.TemporaryDirectory(prefix="coformer-streams-") if 4 * sum(sizes) > memory_bytes else None
        self.arrays = [
            self._array(number, size).view(*shape, width)
            for number, (size, width) in enumerate(zip(sizes, widths, strict=True))
        ]

    def _array(self, number: int, size: int) -> torch.Tensor:
        if self.folder is None:
            return torch.empty(size, device=self.device)
        path = Path(self.folder.name) / f"{number}.f32"
        return torch.from_file(str(path), shared=True, size=size, dtype=torch.float32)

    def __enter__(self) -> Streams:
        """Nothing to do; the arrays exist."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drop the arrays and their file."""
        self.close()

    def following(self, tokens: int, widths: Sequence[int]) -> Streams:
        """Empty streams of the same samples for the next stage."""
        return Streams((self.samples, tokens), widths, self.batch, self.memory_bytes, self.device)

    def close(self) -> None:
        """Drop the arrays and their file."""
        self.arrays = []
        if self.folder is not None:
            self.folder.cleanup()

    def parts(self) -> Iterator[slice]:
        """The samples in batches, in order."""
        for first in range(0, self.samples, self.batch):
            yield slice(first, min(first + self.batch, self.samples))

    def read(self, number: int, part: slice) -> torch.Tensor:
        """`(batch, tokens, width)` of one model, on the computing device."""
        return self.arrays[number][part].to(self.device)

    def write(self, number: int, part: slice, values: torch.Tensor) -> None:
        """Overwrite what `read` gives."""
        self.arrays[number][part] = values.to(self.arrays[number].device)

    def show(self, number: int, values: torch.Tensor) -> None:
        """Let `read` give `values` `(samples, tokens, width)`, which nothing writes to."""
        self.arrays[number] = values

    def fits(self, width: int) -> bool:
        """Whether another array of this width, for a moment, is little beside what may be in memory."""
        return 4 * self.rows * width <= self.memory_bytes / 8
