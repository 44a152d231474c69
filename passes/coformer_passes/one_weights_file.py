"""Graphs of one model that differ in shapes: all of them point into one file of weights."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import onnx_ir as ir

SMALLEST = 1024
"""Bytes; smaller tensors stay in the graph."""
PAGE, LINE = 4096, 64
"""Engines use mapped weights where they lie: those of a page or more begin one, others a line of the cache."""


class WeightsFile:
    """A file that graphs of the same folder point into; tensors of equal contents are in it once.

    A context manager: on leaving it without an error the file is there, whole, or not at all where no graph needed it.
    """

    def __init__(self, path: Path) -> None:
        """`path` is beside the graphs."""
        self.path = path
        self._draft = path.with_name(f".{path.name}.part")
        self._places: dict[tuple[bytes, int], int] = {}
        self._stream: BinaryIO | None = None

    def __enter__(self) -> WeightsFile:
        """Begin the file."""
        self._stream = self._draft.open("wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish it, or remove it after an error."""
        assert self._stream is not None
        self._stream.close()
        if kind is None and self._places:
            self._draft.replace(self.path)
        else:
            self._draft.unlink()

    def take(self, model: ir.Model) -> None:
        """Let the graph's large tensors point into the file, which gets those that it does not have."""
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is None or tensor.nbytes < SMALLEST:
                continue
            value.const_value = ir.ExternalTensor(
                self.path.name,
                self._place_of(tensor.tobytes()),
                tensor.nbytes,
                tensor.dtype,
                shape=ir.Shape(list(tensor.shape.numpy())),
                name=value.name or "",
                base_dir=self.path.parent,
            )

    def _place_of(self, content: bytes) -> int:
        """Where these bytes are in the file."""
        assert self._stream is not None
        key = hashlib.sha256(content).digest(), len(content)
        if key not in self._places:
            self._stream.write(bytes(-self._stream.tell() % (PAGE if len(content) >= PAGE else LINE)))
            self._places[key] = self._stream.tell()
            self._stream.write(content)
        return self._places[key]
