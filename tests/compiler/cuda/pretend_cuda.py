"""A CUDA device for machines without one: runs a program as if torch had found a GPU.

Usage: python tests/compiler/cuda/pretend_cuda.py [--no-bfloat16] LIBRARY SCRIPT [ARGUMENT...]

Tensors on "cuda" hold their values on the CPU, and everything above the kernels is torch's own: what autocast casts,
how the autograd engine walks the graph, gradient scaling, the optimizer. As with a real device, an operation on tensors
of two devices is refused, and a tensor must come back to the CPU before numpy sees it. What this cannot show is what
the kernels of a GPU compute and how fast. LIBRARY is device.cpp, compiled.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
import os
import runpy
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def load_device(library: str) -> None:
    """Load the device before torch does anything."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.origin is not None
    ctypes.CDLL(str(Path(spec.origin).parent / "lib" / "libtorch_cpu.so"), mode=ctypes.RTLD_GLOBAL)
    ctypes.CDLL(library)


LIBRARY = sys.argv[2] if sys.argv[1:2] == ["--no-bfloat16"] else sys.argv[1]
load_device(LIBRARY)

import torch  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing  # noqa: E402
from torch.utils._pytree import tree_leaves, tree_map  # noqa: E402

ran: Counter[str] = Counter()
"""How often each operation ran on the device, by name and dtype of its first tensor: "aten.addmm bfloat16"."""

INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}
"""Operations that take indices from the CPU."""

CROSSING = {"_to_copy", "copy_"}
"""Operations that move values between devices."""


class OnDevice(torch.Tensor):
    """A tensor that says it is on cuda:0; `values` are on the CPU."""

    values: torch.Tensor

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> OnDevice:
        """Wrap a CPU tensor."""
        made: OnDevice = torch.Tensor._make_wrapper_subclass(
            cls, values.shape, strides=values.stride(), storage_offset=values.storage_offset(), dtype=values.dtype,
            device=torch.device("cuda", 0),
        )  # fmt: skip
        made.values = values
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnDevice({self.values!r})"

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Make tensors of lists of indices, which torch would copy to a device where no dispatch sees them."""
        if function in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            indices = args[1] if isinstance(args[1], tuple) else (args[1],)
            args = (args[0], tuple(torch.tensor(i) if isinstance(i, list) else i for i in indices), *args[2:])
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(
        cls, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation on the values."""
        return run(operation, args, kwargs or {})


class Device(TorchDispatchMode):
    """Sees what makes tensors on the device, which has no tensor among its arguments."""

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return run(operation, args, kwargs or {})


def run(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run one operation on the CPU; its results are where a real device would have them."""
    name = operation.overloadpacket.__name__
    tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
    wrapped = [each for each in tensors if isinstance(each, OnDevice)]
    if wrapped and name not in CROSSING:
        left = [each for each in tensors if not isinstance(each, OnDevice) and each.dim() > 0]
        if left and not (name in INDEXED and isinstance(args[0], OnDevice)):
            raise RuntimeError(f"{operation}: a tensor of shape {tuple(left[0].shape)} is on the CPU, others on cuda:0")
        ran[f"{name} {str(wrapped[0].dtype).removeprefix('torch.')}"] += 1
    wanted = kwargs.get("device")
    on_device = bool(wrapped) if wanted is None else torch.device(wanted).type == "cuda"
    if name == "copy_":
        on_device = isinstance(args[0], OnDevice)
    inner = kwargs | {"device": torch.device("cpu")} if on_device and wanted is not None else kwargs
    result = operation(*tree_map(values_of, args), **tree_map(values_of, inner))
    if name == "_to_copy" and any(result is values_of(each) for each in tensors):
        result = result.clone()
    if not on_device:
        return result
    result = tree_map(lambda each: OnDevice(each) if isinstance(each, torch.Tensor) else each, result)
    return return_and_correct_aliasing(operation, args, kwargs, result)


def values_of(value: Any) -> Any:
    """A tensor's values; anything else as it is."""
    return value.values if isinstance(value, OnDevice) else value


def by_way_of_the_cpu(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """`torch.tensor` or `as_tensor`, which copy Python numbers to a device where no dispatch mode sees them."""

    def made(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
        tensor = make(data, *args, **kwargs)
        return tensor if device is None else tensor.to(device)

    return made


@contextlib.contextmanager
def pretend(bfloat16: bool) -> Iterator[None]:
    """Make torch find the device; `bfloat16` says whether it computes in that type (Turing and Volta do not)."""
    cuda: Any = torch.cuda
    cuda.is_available = lambda: True
    cuda.is_bf16_supported = lambda including_emulation=True: bfloat16
    cuda.device_count = lambda: 1
    cuda.set_device = lambda device: None
    cuda._lazy_init = lambda: None
    cuda.get_rng_state = lambda device="cuda": torch.get_rng_state()
    cuda.set_rng_state = lambda state, device="cuda": None
    torch.tensor, torch.as_tensor = by_way_of_the_cpu(torch.tensor), by_way_of_the_cpu(torch.as_tensor)
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    with Device():
        yield


def main(arguments: list[str]) -> None:
    """Run the script, then write what ran on the device into the file that PRETEND_CUDA_RAN names."""
    bfloat16 = arguments[:1] != ["--no-bfloat16"]
    script, *rest = arguments[1 if bfloat16 else 2 :]
    sys.argv = [script, *rest]
    with pretend(bfloat16):
        runpy.run_path(script, run_name="__main__")
    if "PRETEND_CUDA_RAN" in os.environ:
        Path(os.environ["PRETEND_CUDA_RAN"]).write_text(json.dumps(ran))


if __name__ == "__main__":
    main(sys.argv[1:])
