"""Energy of one request: an estimate from the devices' power under load, before anything is built."""

from __future__ import annotations

from collections.abc import Sequence

from coformer_compiler.device import Device
from coformer_compiler.evaluator.latency import Latency


def estimated_energy_mj(devices: Sequence[Device], latency: Latency) -> float:
    """Millijoules that all devices spend on computing one request: power under load times t1, centrally t3 as well.

    What a board draws while it waits, and what its radio draws, is not known to a target and not counted.
    """
    members = sum(
        device.target.power_w * compute_ms for device, compute_ms in zip(devices, latency.compute_ms, strict=True)
    )
    central = next(device for device in devices if device.central)
    return members + central.target.power_w * latency.aggregate_ms
