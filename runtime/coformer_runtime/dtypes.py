"""The element types that tensors may have on the wire, in manifests and towards clients."""

import functools
from typing import Any, NamedTuple, Tuple

from .errors import CoformerError


class Dtype(NamedTuple):
    """One element type and what each format calls it.

    Attributes:
        name: numpy's name, as in manifests ("uint8").
        code: the byte that says it in a device-edge frame.
        size_bytes: bytes per element.
        oip: its name in the Open Inference Protocol ("UINT8").
        contents: the field of InferTensorContents that carries it; "" for types that travel raw only.
    """

    name: str
    code: int
    size_bytes: int
    oip: str
    contents: str


DTYPES: Tuple[Dtype, ...] = (
    Dtype("uint8", 1, 1, "UINT8", "uint_contents"),
    Dtype("int8", 2, 1, "INT8", "int_contents"),
    Dtype("int32", 3, 4, "INT32", "int_contents"),
    Dtype("int64", 4, 8, "INT64", "int64_contents"),
    Dtype("float16", 5, 2, "FP16", ""),
    Dtype("float32", 6, 4, "FP32", "fp32_contents"),
)


def dtype_named(name: str, where: str) -> Dtype:
    """Return the Dtype that numpy calls `name`; raise a CoformerError for any other name."""
    for dtype in DTYPES:
        if dtype.name == name:
            return dtype
    raise CoformerError(
        "element type '{}' is not supported".format(name),
        where,
        "use one of " + ", ".join(dtype.name for dtype in DTYPES),
    )


@functools.lru_cache(maxsize=32)
def name_of(dtype: Any) -> str:
    """Return numpy's name of one of its dtypes, which numpy itself puts together anew whenever it is asked."""
    return str(dtype.name)


def count_elements(shape: Tuple[int, ...]) -> int:
    """Return the product of the axis sizes; 1 for a scalar."""
    count = 1
    for size in shape:
        count *= size
    return count
