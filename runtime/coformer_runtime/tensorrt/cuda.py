"""The few calls of CUDA that an engine needs: by pycuda, or by ctypes on libcudart where pycuda is missing."""

import abc
from typing import NamedTuple, Tuple

from ..arrays import Array
from ..errors import CoformerError


class Device(NamedTuple):
    """The GPU: its name, compute capability times ten (53 is 5.3), and the CUDA version, "10.2"."""

    name: str
    sm: int
    cuda: str


class Cuda(abc.ABC):
    """GPU 0, in its primary context, which all threads share. Pointers and streams are plain integers.

    Every call raises a CheckFailed where CUDA refuses.
    """

    through = ""
    """What the calls go through, in words."""

    @abc.abstractmethod
    def device(self) -> Device:
        """Return what GPU 0 is."""

    @abc.abstractmethod
    def memory(self) -> Tuple[int, int]:
        """Return free and total bytes of GPU memory; on a Jetson it is the system's."""

    @abc.abstractmethod
    def allocate(self, size_bytes: int) -> int:
        """Return a pointer to new GPU memory."""

    @abc.abstractmethod
    def free(self, pointer: int) -> None:
        """Give GPU memory back."""

    @abc.abstractmethod
    def open_stream(self) -> int:
        """Return a new stream."""

    @abc.abstractmethod
    def close_stream(self, stream: int) -> None:
        """Destroy a stream."""

    @abc.abstractmethod
    def copy_in(self, pointer: int, array: Array, stream: int) -> None:
        """Copy a contiguous array to the GPU; it must live until the stream was waited for."""

    @abc.abstractmethod
    def copy_out(self, array: Array, pointer: int, stream: int) -> None:
        """Copy from the GPU into a contiguous array, which is filled once the stream was waited for."""

    @abc.abstractmethod
    def wait(self, stream: int) -> None:
        """Wait until everything in the stream is done."""


def open_cuda(where: str) -> Cuda:
    """Return GPU 0, by pycuda where it can be imported, else by libcudart.

    Raises:
        CoformerError: there is neither, or no GPU.
    """
    try:
        import pycuda.driver  # noqa: F401 - asked first, for the message below
    except ImportError as missing:
        from .cudart import open_cudart

        try:
            return open_cudart(where)
        except OSError as error:
            raise CoformerError(
                "CUDA cannot be reached: no pycuda ({}), no libcudart ({})".format(missing, error),
                where,
                "install CUDA from JetPack (sudo apt install nvidia-jetpack), and put /usr/local/cuda/lib64 into "
                "LD_LIBRARY_PATH if it is elsewhere",
            ) from error
    from .pycuda import PyCuda

    return PyCuda(where)
