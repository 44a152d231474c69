"""CUDA by pycuda, in the primary context, which is the one that TensorRT works in."""

import contextlib
from typing import Any, Dict, Iterator, Tuple

from ..arrays import Array
from ..errors import CheckFailed
from .cuda import Cuda, Device


class PyCuda(Cuda):
    """GPU 0 by pycuda. Its calls need a current context in their thread, so each one makes it so and undoes it.

    Raises:
        CheckFailed: there is no GPU.
    """

    through = "pycuda"

    def __init__(self, where: str) -> None:
        import pycuda.driver as driver

        self._driver: Any = driver
        self._where = where
        self._allocations: Dict[int, Any] = {}
        self._streams: Dict[int, Any] = {}
        try:
            driver.init()
            self._device: Any = driver.Device(0)
            self._context: Any = self._device.retain_primary_context()
        except driver.Error as error:
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> CheckFailed:
        return CheckFailed(
            "CUDA failed: {}".format(error),
            self._where,
            "run 'coformer-node doctor'; if memory is short, stop other programs",
        )

    @contextlib.contextmanager
    def _current(self) -> Iterator[None]:
        try:
            self._context.push()
            try:
                yield
            finally:
                self._driver.Context.pop()
        except self._driver.Error as error:
            raise self._refused(error) from error

    def device(self) -> Device:
        """See `Cuda.device`."""
        with self._current():
            major, minor = self._device.compute_capability()
            version = self._driver.get_version()
            return Device(self._device.name(), 10 * major + minor, "{}.{}".format(*version[:2]))

    def memory(self) -> Tuple[int, int]:
        """See `Cuda.memory`."""
        with self._current():
            free, total = self._driver.mem_get_info()
        return int(free), int(total)

    def allocate(self, size_bytes: int) -> int:
        """See `Cuda.allocate`."""
        with self._current():
            allocation = self._driver.mem_alloc(max(1, size_bytes))
        self._allocations[int(allocation)] = allocation
        return int(allocation)

    def free(self, pointer: int) -> None:
        """See `Cuda.free`."""
        with self._current():
            self._allocations.pop(pointer).free()

    def open_stream(self) -> int:
        """See `Cuda.open_stream`."""
        with self._current():
            stream = self._driver.Stream()
        self._streams[int(stream.handle)] = stream
        return int(stream.handle)

    def close_stream(self, stream: int) -> None:
        """See `Cuda.close_stream`."""
        with self._current():
            del self._streams[stream]  # pycuda destroys it then

    def copy_in(self, pointer: int, array: Array, stream: int) -> None:
        """See `Cuda.copy_in`."""
        with self._current():
            self._driver.memcpy_htod_async(pointer, array, self._streams[stream])

    def copy_out(self, array: Array, pointer: int, stream: int) -> None:
        """See `Cuda.copy_out`."""
        with self._current():
            self._driver.memcpy_dtoh_async(array, pointer, self._streams[stream])

    def wait(self, stream: int) -> None:
        """See `Cuda.wait`."""
        with self._current():
            self._streams[stream].synchronize()
