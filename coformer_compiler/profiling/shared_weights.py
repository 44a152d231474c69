"""One file of random weights that many graphs point into.

A thousand graphs with weights of their own would be gigabytes. What a graph costs does not depend on the values of
its weights, so after the passes (which compute with weights, and make new ones) every large tensor is replaced by a
window of one file for each type of number, by ONNX's external data. Windows of one graph do not overlap, as far as the
file reaches: an engine that reads weights where they lie must not find them in a cache where the shipped graph would
not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

SMALLEST = 64
"""Tensors of fewer elements stay in the graph: scales, shapes, axes."""
ALIGNMENT = 256
SCALE = 0.05
DTYPES = {ir.DataType.FLOAT: "float32", ir.DataType.FLOAT16: "float16", ir.DataType.UINT8: "uint8"}
QUANTISERS = ("QuantizeLinear", "DequantizeLinear")


class Windows:
    """Windows of a store of `size` elements, one after the other; behind its end it goes on near the start."""

    def __init__(self, size: int) -> None:
        """Start at the beginning."""
        self.size, self._next, self._rounds = size, 0, 0

    def take(self, count: int) -> int:
        """The first element of a window of `count` elements, at most `size`."""
        assert count <= self.size, "the files are made for the largest tensor"
        if self._next + count > self.size:
            self._rounds += 1
            self._next = min(self._rounds * ALIGNMENT, self.size - count)
        start = self._next
        self._next += _aligned(count)
        return start


def elements_within(models: Sequence[ir.Model], budget_bytes: int) -> dict[str, int]:
    """How long the file of each type of number is to be, in elements, for graphs like these.

    All that the largest graph has, where all files together are within the budget then; else each gets its share of it,
    but room for its largest tensor always.
    """
    whole: dict[str, int] = {}
    largest: dict[str, int] = {}
    for model in models:
        own: dict[str, int] = {}
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and _is_weight(value, tensor):
                dtype = DTYPES[tensor.dtype]
                own[dtype] = own.get(dtype, 0) + _aligned(tensor.size)
                largest[dtype] = max(largest.get(dtype, 0), _aligned(tensor.size))
        whole |= {dtype: max(count, whole.get(dtype, 0)) for dtype, count in own.items()}
    needed = sum(count * np.dtype(dtype).itemsize for dtype, count in whole.items())
    share = min(1.0, budget_bytes / max(needed, 1))
    return {dtype: max(int(count * share) // ALIGNMENT * ALIGNMENT, largest[dtype]) for dtype, count in whole.items()}


class SharedWeights:
    """The files of one folder, `weights.float32` and so on."""

    def __init__(self, folder: Path, elements: Mapping[str, int]) -> None:
        """`elements`: how long each file is, see `elements_within`."""
        self._folder, self._elements = folder, elements

    def write(self, seed: int) -> None:
        """Make the files; `seed`: of the values."""
        for dtype, count in self._elements.items():
            (self._folder / _file(dtype)).write_bytes(random_weights(dtype, count, seed).tobytes())

    def replace(self, model: ir.Model) -> None:
        """Let the graph's large tensors point into the files; the graph is to be saved in their folder."""
        windows = {dtype: Windows(count) for dtype, count in self._elements.items()}
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is None or not _is_weight(value, tensor):
                continue
            dtype = DTYPES[tensor.dtype]
            start = windows[dtype].take(tensor.size)
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


def random_weights(dtype: str, count: int, seed: int) -> npt.NDArray[np.generic]:
    """Numbers as weights have them: normal, small, no denormals to speak of; whole bytes for uint8."""
    random = np.random.default_rng(seed)
    if dtype == "uint8":
        return random.integers(1, 256, count, np.uint8)
    return (random.standard_normal(count, np.float32) * np.float32(SCALE)).astype(dtype)


def _aligned(count: int) -> int:
    return -(-count // ALIGNMENT) * ALIGNMENT


def _file(dtype: str) -> str:
    return f"weights.{dtype}"


def _is_weight(value: ir.Value, tensor: ir.TensorProtocol) -> bool:
    """Large, of a type that weights have, and no scale or zero point, whose values an engine checks."""
    if tensor.dtype not in DTYPES or tensor.size < SMALLEST:
        return False
    return not any(use.node.op_type in QUANTISERS and use.idx > 0 for use in value.uses())
