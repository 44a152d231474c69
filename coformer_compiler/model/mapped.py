"""Safetensors files whose tensors stay on disk: read by mapping, written one tensor at a time.

A mapped tensor costs memory only for the pages that have been read, and `MappedTensors.release` gives those back. That
is how a model nearly as large as the machine's memory is compiled: each of its blocks is in memory while it is used.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""What the format calls them."""
ALIGNMENT = 64
"""The first tensor begins at a multiple of this many bytes."""


class _Place(NamedTuple):
    dtype: torch.dtype
    shape: tuple[int, ...]
    first: int
    last: int


class MappedTensors(Mapping[str, torch.Tensor]):
    """The tensors of a safetensors file by name, each a view of the mapped file.

    What is written into such a tensor stays in this process; the file never changes.
    """

    def __init__(self, path: Path) -> None:
        """Map the file.

        Raises:
            safetensors.SafetensorError: it is truncated or none.
            OSError: it cannot be read.
            ValueError: a tensor is of a type that torch has not.
        """
        from safetensors import safe_open

        with safe_open(path, framework="np") as checked:  # every offset, shape and size
            self.metadata: dict[str, str] = checked.metadata() or {}
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        header.pop("__metadata__", None)
        self._places = {name: _place(name, entry, 8 + size) for name, entry in header.items()}
        self._first_byte = torch.frombuffer(self._map, dtype=torch.uint8, count=1).data_ptr()

    def __getitem__(self, name: str) -> torch.Tensor:
        """One tensor in its own dtype."""
        place = self._places[name]
        count = (place.last - place.first) // place.dtype.itemsize
        if count == 0:
            return torch.empty(place.shape, dtype=place.dtype)
        flat = torch.frombuffer(self._map, dtype=place.dtype, count=count, offset=place.first)
        return flat.reshape(place.shape)

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self._places)

    def __len__(self) -> int:
        """How many tensors there are."""
        return len(self._places)

    def __deepcopy__(self, memo: object) -> MappedTensors:
        """A copy of a model has weights of its own, which `release` leaves alone."""
        return self

    def release(self, tensors: Iterable[torch.Tensor]) -> None:
        """Give back the memory of those of these tensors that are views of this file and were never written to.

        They keep their values: the pages are read again when they are needed.
        """
        for tensor in tensors:
            if tensor.device.type != "cpu":
                continue
            storage = tensor.untyped_storage()
            first = storage.data_ptr() - self._first_byte
            last = first + storage.nbytes()
            if first < 0 or last > len(self._map):
                continue
            begin, end = -(-first // mmap.PAGESIZE) * mmap.PAGESIZE, last // mmap.PAGESIZE * mmap.PAGESIZE
            if end > begin and not tensor._version:  # torch counts what is written into a tensor
                self._map.madvise(mmap.MADV_DONTNEED, begin, end - begin)


def _place(name: str, entry: Mapping[str, object], start: int) -> _Place:
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if kind not in DTYPES:
        raise ValueError(f"'{name}' is of type {kind}, which is none of {', '.join(DTYPES)}")
    assert isinstance(kind, str) and isinstance(shape, list) and isinstance(offsets, list)
    return _Place(DTYPES[kind], tuple(shape), start + offsets[0], start + offsets[1])


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file; views are made contiguous one by one. Equal tensors give equal bytes.

    Args:
        path: the file.
        tensors: by name; they lie in the file in their order, those of wider types first, so that all are aligned.
        metadata: texts for the file's header.
    """
    tensors = dict(sorted(tensors.items(), key=lambda item: -item[1].element_size()))
    names = {dtype: name for name, dtype in DTYPES.items()}
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    first = 0
    for name, tensor in tensors.items():
        last = first + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [first, last]}
        first = last
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            file.write(flat.view(torch.uint8).numpy().data)
