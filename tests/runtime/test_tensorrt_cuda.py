"""CUDA by ctypes and by pycuda, on stand-ins whose GPU memory is the host's."""

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, List

import numpy as np
import pytest

from coformer_runtime.errors import CheckFailed, CoformerError
from coformer_runtime.tensorrt import cudart
from coformer_runtime.tensorrt.cuda import Cuda, Device, open_cuda
from tests.runtime.boards import (
    FAKES,
    NANO,
    ORIN,
    THOR,
    XAVIER,
    Board,
    environment,
    make_bundle,
    make_cudart,
    make_site,
    node,
)

BY_BOARD = [(NANO, "libcudart.so.10.2"), (XAVIER, "libcudart.so.11.0"), (ORIN, "libcudart.so.12"),
            (THOR, "libcudart.so.13")]  # fmt: skip


def compiled(directory: Path, board: Board, name: str, **options: Any) -> Path:
    library = make_cudart(directory, board, name, **options)
    if library is None:
        pytest.skip("no C compiler for a libcudart of the test's own")
    return library


def opened(path: Path, monkeypatch: pytest.MonkeyPatch) -> Cuda:
    monkeypatch.setattr(cudart, "NAMES", (str(path),))
    monkeypatch.setattr(cudart, "FOLDER", str(path.parent))
    return cudart.open_cudart("here")


def round_trip(cuda: Cuda) -> np.ndarray:
    stream, pointer = cuda.open_stream(), cuda.allocate(24)
    back = np.zeros((2, 3), np.float32)
    cuda.copy_in(pointer, np.arange(6, dtype=np.float32).reshape(2, 3), stream)
    cuda.copy_out(back, pointer, stream)
    cuda.wait(stream)
    cuda.free(pointer)
    cuda.close_stream(stream)
    return back


@pytest.mark.parametrize(("board", "name"), BY_BOARD, ids=[name for _, name in BY_BOARD])
def test_cudart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, board: Board, name: str) -> None:
    cuda = opened(compiled(tmp_path, board, name), monkeypatch)
    assert cuda.device() == Device(board.gpu, board.sm, "{}.{}".format(*board.cuda))
    assert cuda.memory() == (1 << 30, 2 << 30)
    assert cuda.through == name
    assert round_trip(cuda).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_cudart_says_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = opened(compiled(tmp_path, NANO, "libcudart.so.small", free_bytes=1000), monkeypatch)
    with pytest.raises(CheckFailed) as caught:
        cuda.allocate(1001)
    assert caught.value.what == "cudaMalloc failed with error 2 (out of memory)"
    assert caught.value.where == "here"
    with pytest.raises(CheckFailed, match="cudaStreamSynchronize failed with error 1"):
        cuda.wait(0)


def test_cudart_is_found_by_its_name(tmp_path: Path) -> None:
    """By the loader's path, in a process that has no pycuda, through the command."""
    compiled(tmp_path / "lib", NANO, "libcudart.so.10.2")
    site = make_site(tmp_path / "site", NANO, pycuda=False)
    bundle = make_bundle(tmp_path / "hall", NANO)
    done = node(site, "build", bundle, LD_LIBRARY_PATH=str(tmp_path / "lib"))
    assert done.code == 0, done.err
    assert node(site, "validate", bundle, LD_LIBRARY_PATH=str(tmp_path / "lib")).code == 0
    # The same board by pycuda is the same board.
    assert node(make_site(tmp_path / "other", NANO), "validate", bundle).code == 0


def test_neither_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.setattr(cudart, "NAMES", ("libcudart.so.9.0",))
    with pytest.raises(CoformerError) as caught:
        open_cuda("here")
    assert caught.value.what.startswith("CUDA cannot be reached: no pycuda (")
    assert "no libcudart (" in caught.value.what and "libcudart.so.9.0: cannot open shared" in caught.value.what
    assert caught.value.mend.startswith("install CUDA from JetPack (sudo apt install nvidia-jetpack)")


def run_with_pycuda(tmp_path: Path, code: str) -> List[str]:
    site = make_site(tmp_path / "site", ORIN)
    words = [sys.executable, "-c", "from coformer_runtime.tensorrt.cuda import open_cuda\n" + code]
    done = subprocess.run(words, stdout=subprocess.PIPE, env=environment(site), check=True)
    return done.stdout.decode().splitlines()


def test_pycuda(tmp_path: Path) -> None:
    """Made in one thread and used in another, as the threads of a server do; nothing is left on the GPU."""
    code = """
import threading, numpy, pycuda.driver
cuda = open_cuda("here")
print(cuda.through, *cuda.device()); print(*cuda.memory())
stream, pointer = cuda.open_stream(), cuda.allocate(16)
def work():
    back = numpy.zeros(4, "float32")
    cuda.copy_in(pointer, numpy.arange(4, dtype="float32"), stream)
    cuda.copy_out(back, pointer, stream)
    cuda.wait(stream)
    print(back.tolist())
thread = threading.Thread(target=work); thread.start(); thread.join()
cuda.free(pointer); cuda.close_stream(stream)
print(pycuda.driver.live)
"""
    assert run_with_pycuda(tmp_path, code) == [
        "pycuda Orin 87 12.6",
        "1073741824 4294967296",
        "[0.0, 1.0, 2.0, 3.0]",
        "{}",
    ]


def test_pycuda_says_what_failed(tmp_path: Path) -> None:
    code = """
import pycuda.driver
def fail(size): raise pycuda.driver.Error("cuMemAlloc failed: out of memory")
cuda = open_cuda("here"); pycuda.driver.mem_alloc = fail
try: cuda.allocate(5)
except Exception as error: print(type(error).__name__, error.what)
"""
    assert run_with_pycuda(tmp_path, code) == ["CheckFailed CUDA failed: cuMemAlloc failed: out of memory"]


def test_stand_ins_need_what_the_real_ones_need() -> None:
    sys.path.insert(0, str(FAKES))
    try:
        import pycuda.driver as driver
    finally:
        sys.path.remove(str(FAKES))
    with pytest.raises(driver.Error, match="invalid device context"):
        driver.mem_alloc(1)
    context = driver.Device(0).retain_primary_context()
    context.push()
    refused: List[str] = []

    def elsewhere() -> None:
        try:
            driver.mem_alloc(1)
        except driver.Error as error:
            refused.append(str(error))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    context.pop()
    for name in [name for name in sys.modules if name.split(".")[0] == "pycuda"]:
        del sys.modules[name]
    assert refused == ["invalid device context"]
