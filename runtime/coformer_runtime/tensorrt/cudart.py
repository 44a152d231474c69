"""CUDA by ctypes on libcudart: no package needs to be built on the board."""

import ctypes
import os
from typing import Any, List, Tuple

from ..arrays import Array
from ..errors import CheckFailed
from .cuda import Cuda, Device

NAMES = ("libcudart.so.10.2", "libcudart.so.11.0", "libcudart.so.12", "libcudart.so.13", "libcudart.so")
FOLDER = "/usr/local/cuda/lib64"
_TO_DEVICE, _TO_HOST = 1, 2
_MAJOR, _MINOR = 75, 76  # cudaDevAttrComputeCapabilityMajor, ...Minor
_NAME_BYTES = 256
_PROPERTIES_BYTES = 8192  # several times the structure of any version; its first field is the name

_pointer, _size = ctypes.c_void_p, ctypes.c_size_t
_SIGNATURES = {
    "cudaRuntimeGetVersion": [_pointer],
    "cudaSetDevice": [ctypes.c_int],
    "cudaDeviceGetAttribute": [_pointer, ctypes.c_int, ctypes.c_int],
    "cudaMemGetInfo": [_pointer, _pointer],
    "cudaMalloc": [_pointer, _size],
    "cudaFree": [_pointer],
    "cudaMemcpyAsync": [_pointer, _pointer, _size, ctypes.c_int, _pointer],
    "cudaStreamCreate": [_pointer],
    "cudaStreamDestroy": [_pointer],
    "cudaStreamSynchronize": [_pointer],
}


class Cudart(Cuda):
    """GPU 0 by libcudart, whose calls make the primary context current in whichever thread they come from."""

    def __init__(self, library: Any, name: str, where: str) -> None:
        self._library, self._where = library, where
        self.through = name
        for function, arguments in _SIGNATURES.items():
            getattr(library, function).argtypes = arguments
        library.cudaGetErrorString.restype = ctypes.c_char_p
        self._call("cudaSetDevice", 0)

    def _call(self, function: str, *arguments: Any) -> None:
        status = getattr(self._library, function)(*arguments)
        if status != 0:
            text = self._library.cudaGetErrorString(status) or b"unknown"
            raise CheckFailed(
                "{} failed with error {} ({})".format(function, status, text.decode("ascii", "replace")),
                self._where,
                "run 'coformer-node doctor'; if memory is short, stop other programs",
            )

    def device(self) -> Device:
        """See `Cuda.device`."""
        version, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        self._call("cudaRuntimeGetVersion", ctypes.byref(version))
        self._call("cudaDeviceGetAttribute", ctypes.byref(major), _MAJOR, 0)
        self._call("cudaDeviceGetAttribute", ctypes.byref(minor), _MINOR, 0)
        properties = ctypes.create_string_buffer(_PROPERTIES_BYTES)
        # CUDA 12 has the name with _v2 beside the old one, the others have only one.
        newest = "cudaGetDeviceProperties_v2"
        ask = newest if hasattr(self._library, newest) else "cudaGetDeviceProperties"
        self._call(ask, ctypes.byref(properties), 0)
        name = properties.raw[:_NAME_BYTES].split(b"\0")[0].decode("ascii", "replace")
        cuda = "{}.{}".format(version.value // 1000, version.value % 1000 // 10)
        return Device(name, 10 * major.value + minor.value, cuda)

    def memory(self) -> Tuple[int, int]:
        """See `Cuda.memory`."""
        free, total = _size(), _size()
        self._call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def allocate(self, size_bytes: int) -> int:
        """See `Cuda.allocate`."""
        pointer = _pointer()
        self._call("cudaMalloc", ctypes.byref(pointer), max(1, size_bytes))
        return pointer.value or 0

    def free(self, pointer: int) -> None:
        """See `Cuda.free`."""
        self._call("cudaFree", pointer)

    def open_stream(self) -> int:
        """See `Cuda.open_stream`."""
        stream = _pointer()
        self._call("cudaStreamCreate", ctypes.byref(stream))
        return stream.value or 0

    def close_stream(self, stream: int) -> None:
        """See `Cuda.close_stream`."""
        self._call("cudaStreamDestroy", stream)

    def copy_in(self, pointer: int, array: Array, stream: int) -> None:
        """See `Cuda.copy_in`."""
        self._call("cudaMemcpyAsync", pointer, array.ctypes.data, array.nbytes, _TO_DEVICE, stream)

    def copy_out(self, array: Array, pointer: int, stream: int) -> None:
        """See `Cuda.copy_out`."""
        self._call("cudaMemcpyAsync", array.ctypes.data, pointer, array.nbytes, _TO_HOST, stream)

    def wait(self, stream: int) -> None:
        """See `Cuda.wait`."""
        self._call("cudaStreamSynchronize", stream)


def open_cudart(where: str) -> Cudart:
    """Return GPU 0 by the first libcudart that is there: one that TensorRT has loaded before any other.

    Raises:
        OSError: none can be loaded.
    """
    modes = [os.RTLD_NOW | os.RTLD_NOLOAD] if hasattr(os, "RTLD_NOLOAD") else []
    reasons: List[str] = []
    for mode, names in [(mode, NAMES) for mode in modes] + [(os.RTLD_NOW, NAMES + _in_folder())]:
        for name in names:
            try:
                library = ctypes.CDLL(name, mode=mode)
            except OSError as error:
                reasons.append(str(error))
            else:
                return Cudart(library, os.path.basename(name), where)
    raise OSError(reasons[-1])


def _in_folder() -> Tuple[str, ...]:
    return tuple(os.path.join(FOLDER, name) for name in NAMES)
