"""Devices of any size."""

from __future__ import annotations

import dataclasses

from coformer_compiler.device import Device
from coformer_targets import load_target

CPU = load_target("cpu")


def board(
    name: str = "attic",
    *,
    gflops: float = 10.0,
    memory_mb: float = 512.0,
    max_gflop: float | None = None,
    alignment: int = 4,
) -> Device:
    """A device of target "cpu" with this alignment."""
    return Device(name, dataclasses.replace(CPU, alignment=alignment), gflops, memory_mb, max_gflop)


def boards(*gflops: float, alignment: int = 4) -> list[Device]:
    """Roomy devices of these speeds, named d0, d1 and so on."""
    return [board(f"d{n}", gflops=speed, alignment=alignment) for n, speed in enumerate(gflops)]
