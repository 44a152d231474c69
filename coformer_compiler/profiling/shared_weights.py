"""One file of random weights that many graphs point into.

A thousand graphs with weights of their own would be gigabytes. What a graph costs does not depend on the values of
its weights, so after the passes (which compute with weights, and make new ones) every large tensor is replaced by a
window of one file, by ONNX's external data. Windows of one graph do not overlap, as far as the file reaches: an engine
that reads weights where they lie must not find them in a cache where the shipped graph would not.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

SMALLEST = 64
"""Tensors of fewer elements stay in the graph: scales, shapes, axes."""
MOST_BYTES = 96 << 20
ALIGNMENT = 256
SCALE = 0.05
DTYPES = {ir.DataType.FLOAT: "float32", ir.DataType.FLOAT16: "float16", ir.DataType.INT8: "int8"}
QUANTISERS = ("QuantizeLinear", "DequantizeLinear")


class Windows:
    """Windows of a store of `size` elements, one after the other; behind its end it goes on near the start."""

    def __init__(self, size: int) -> None:
        """Start at the beginning."""
        self.size, self._next, self._rounds = size, 0, 0

    def take(self, count: int) -> int:
        """The first element of a window of `count` elements, at most `size`."""
        if self._next + count > self.size:
            self._rounds += 1
            self._next = min(self._rounds * ALIGNMENT, self.size - count)
        start = self._next
        self._next += -(-count // ALIGNMENT) * ALIGNMENT
        return start


class SharedWeights:
    """The files of one folder, `weights.float32` and so on, made when the first graph needs them."""

    def __init__(self, folder: Path, largest: int, seed: int) -> None:
        """`largest`: elements of the largest graph; `seed`: of the values."""
        self._folder, self._largest, self._seed = folder, largest, seed
        self._sizes: dict[str, int] = {}

    def replace(self, model: ir.Model) -> None:
        """Let the graph's large tensors point into the files; the graph is to be saved in their folder."""
        windows: dict[str, Windows] = {}
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is None or not _is_weight(value, tensor):
                continue
            dtype = DTYPES[tensor.dtype]
            place = windows.setdefault(dtype, Windows(self._size(dtype, tensor.size)))
            start = place.take(tensor.size)
            width = np.dtype(dtype).itemsize
            value.const_value = ir.ExternalTensor(
                _file(dtype),
                start * width,
                tensor.size * width,
                tensor.dtype,
                shape=ir.Shape(list(tensor.shape.numpy())),
                name=value.name or "",
                base_dir=self._folder,
            )

    def _size(self, dtype: str, least: int) -> int:
        if dtype not in self._sizes:
            size = max(min(self._largest, MOST_BYTES // np.dtype(dtype).itemsize), least)
            self._sizes[dtype] = -(-size // ALIGNMENT) * ALIGNMENT
            (self._folder / _file(dtype)).write_bytes(random_weights(dtype, self._sizes[dtype], self._seed).tobytes())
        return self._sizes[dtype]


def random_weights(dtype: str, count: int, seed: int) -> npt.NDArray[np.generic]:
    """Numbers as weights have them: normal, small, no denormals to speak of; whole bytes for int8."""
    random = np.random.default_rng(seed)
    if dtype == "int8":
        return random.integers(-127, 128, count, np.int8)
    return (random.standard_normal(count, np.float32) * np.float32(SCALE)).astype(dtype)


def _file(dtype: str) -> str:
    return f"weights.{dtype}"


def _is_weight(value: ir.Value, tensor: ir.TensorProtocol) -> bool:
    """Large, of a type that weights have, and no scale or zero point, whose values an engine checks."""
    if tensor.dtype not in DTYPES or tensor.size < SMALLEST:
        return False
    return not any(use.node.op_type in QUANTISERS and use.idx > 0 for use in value.uses())
