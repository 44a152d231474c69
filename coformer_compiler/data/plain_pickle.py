"""Reads the data out of a pickle without executing any of it.

A pickle is a program, and `pickle.load` runs it. The CIFAR files are pickles all the same. This reader knows the three
NumPy names that occur in them, replaces them by records that only hold what they are given, and refuses every other
name before it is imported; so nothing of the file's choosing is ever called.
"""

from __future__ import annotations

import io
import math
import pickle
from typing import Any

import numpy as np
import numpy.typing as npt

from coformer_runtime.errors import CoformerError

_ELEMENT_TYPES = {"u1": "|u1", "i4": "<i4", "i8": "<i8"}


class _DType:
    """Stands for numpy.dtype: takes the element type's name, and lets the byte order be given as a state."""

    def __init__(self, name: Any = None, *_: Any) -> None:
        self.name = name.decode("ascii", "replace") if isinstance(name, bytes) else name
        self.order: Any = b"|"

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]


class _Array:
    """Stands for numpy.ndarray: takes shape, element type and bytes as a state."""

    def __init__(self, *_: Any) -> None:
        self.array: npt.NDArray[Any] | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, element, fortran_order, content = state
        if not isinstance(element, _DType) or element.name not in _ELEMENT_TYPES:
            raise pickle.UnpicklingError(f"array of {getattr(element, 'name', 'an unknown type')}")
        if element.order not in (b"|", b"<", "|", "<") or fortran_order or not isinstance(content, bytes):
            raise pickle.UnpicklingError("array in a foreign layout")
        dtype = np.dtype(_ELEMENT_TYPES[element.name])
        if not all(isinstance(size, int) and size >= 0 for size in shape):
            raise pickle.UnpicklingError("array with a wrong shape")
        if math.prod(shape) * dtype.itemsize != len(content):
            raise pickle.UnpicklingError(f"array of shape {tuple(shape)} with {len(content)} bytes")
        self.array = np.frombuffer(content, dtype=dtype).reshape(shape).copy()


def _array_class(*_: Any) -> None:
    raise pickle.UnpicklingError("an array built in an unknown way")


_KNOWN = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _array_class,
    ("numpy", "dtype"): _DType,
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for '{module}.{name}', which data has no need of") from None


def plain_data_from_pickle(content: bytes, where: str) -> Any:
    """Returns the numbers, strings, lists, dicts and arrays that a pickle describes.

    Strings written by Python 2 come as bytes. Arrays may be of uint8, int32 and int64.

    Args:
        content: the pickle.
        where: the file, for the error.

    Raises:
        CoformerError: the pickle is damaged, or asks for anything else.
    """
    try:
        return _without_records(_PlainUnpickler(io.BytesIO(content), encoding="bytes").load(), depth=0)
    except (
        pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError,
        MemoryError, RecursionError,
    ) as error:  # fmt: skip  # whatever a damaged pickle makes the reader stumble over
        raise CoformerError(
            f"the pickle cannot be read as plain data ({error or type(error).__name__})",
            where,
            "download the data set again, from its authors",
        ) from error


def _without_records(value: Any, depth: int) -> Any:
    if depth > 8:
        raise ValueError("it is nested more than 8 deep")
    if isinstance(value, _Array):
        if value.array is None:
            raise ValueError("an array without content")
        return value.array
    if isinstance(value, dict):
        return {key: _without_records(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_records(item, depth + 1) for item in value]
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return value
    raise ValueError(f"it holds a {type(value).__name__}")
