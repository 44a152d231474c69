"""The processes of a run: one alone, or several under torchrun that share every batch.

Weights are equal in all of them at all times. Each process sums the gradients of its part of a batch and the sums are
added up, so several processes compute what one computes, but for the order in which floats are added.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from coformer_compiler.booster.options import Device
from coformer_runtime.errors import CoformerError

PATIENCE = timedelta(hours=12)
"""How long processes wait for the first one, which runs the teacher over the whole training split."""


@dataclass(frozen=True)
class Ranks:
    """This process among its like.

    Attributes:
        rank: number of this process; 0 writes files and shows progress.
        size: number of processes.
        device: where this process computes.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all."""
        if self.size > 1:
            dist.barrier()

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter], loss: torch.Tensor) -> float:
        """Add up gradients and loss over all processes, in one message; returns the loss.

        Which parameters have a gradient must not differ between processes.
        """
        if self.size == 1:
            return float(loss.detach())
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients] + [loss.detach().reshape(1)])
        dist.all_reduce(flat)
        for gradient, summed in zip(gradients, flat[:-1].split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(summed.view_as(gradient))
        return float(flat[-1])

    def same_everywhere(self, tensors: Sequence[torch.Tensor]) -> None:
        """Overwrite the tensors with those of process 0: unlike processors may have rounded differently."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)


@contextmanager
def join_ranks(device: Device) -> Iterator[Ranks]:
    """The processes that torchrun started, or this one alone. A process group that is up already is used and left up.

    Raises:
        CoformerError: CUDA is asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise CoformerError("there is no CUDA device", "boost.device 'cuda'", "set boost.device to 'auto' or 'cpu'")
    cuda = device != "cpu" and torch.cuda.is_available()
    ours = dist.is_available() and not dist.is_initialized() and dist.is_torchelastic_launched()
    if ours:
        dist.init_process_group("nccl" if cuda else "gloo", timeout=PATIENCE)
    try:
        grouped = dist.is_available() and dist.is_initialized()
        rank, size = (dist.get_rank(), dist.get_world_size()) if grouped else (0, 1)
        local = dist.get_node_local_rank(0) if grouped else 0
        if cuda:
            torch.cuda.set_device(local)
        yield Ranks(rank, size, torch.device("cuda", local) if cuda else torch.device("cpu"))
    finally:
        if ours:
            dist.destroy_process_group()
