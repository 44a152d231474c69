"""The calls of pycuda.driver that the runtime makes, on host memory; each needs a current context, as the real ones do.

`GPU` is (name, (major, minor), CUDA version), set by the test's own site directory. Python 3.6.
"""

import ctypes
import threading

GPU = ("NVIDIA Tegra X1", (5, 3), (10, 2, 0))
_current = threading.local()
live = {}


class Error(Exception):
    """Any failure of CUDA."""


def _need_context():
    if not getattr(_current, "depth", 0):
        raise Error("invalid device context")


def init():
    """Start the driver."""


def get_version():
    return GPU[2]


def mem_get_info():
    _need_context()
    return 1 << 30, 4 << 30


class Context(object):
    """The primary context."""

    def push(self):
        _current.depth = getattr(_current, "depth", 0) + 1

    @staticmethod
    def pop():
        _current.depth -= 1


class Device(object):
    """GPU 0."""

    def __init__(self, number):
        assert number == 0

    def retain_primary_context(self):
        return Context()

    def name(self):
        return GPU[0]

    def compute_capability(self):
        return GPU[1]


class _Allocation(object):
    def __init__(self, size):
        self._memory = ctypes.create_string_buffer(size)
        live[int(self)] = self

    def __int__(self):
        return ctypes.addressof(self._memory)

    def free(self):
        _need_context()
        del live[int(self)]


def mem_alloc(size):
    _need_context()
    return _Allocation(size)


class Stream(object):
    """A stream in which everything is done at once."""

    def __init__(self):
        _need_context()

    @property
    def handle(self):
        return id(self)

    def synchronize(self):
        _need_context()


def memcpy_htod_async(pointer, array, stream):
    _need_context()
    assert array.flags.c_contiguous
    ctypes.memmove(pointer, array.ctypes.data, array.nbytes)


def memcpy_dtoh_async(array, pointer, stream):
    _need_context()
    assert array.flags.c_contiguous
    ctypes.memmove(array.ctypes.data, pointer, array.nbytes)
