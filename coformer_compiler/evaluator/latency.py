"""Latency of one request, eqs. (3) to (6), before anything is built.

These figures are estimates from the devices' FLOPS; a measured predictor can take the place of `compute_ms`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coformer_compiler.device import Device
from coformer_compiler.model.cost import Cost


@dataclass(frozen=True)
class Network:
    """The link that all boards share towards the central one: rate in Mbit/s, round trip in ms."""

    mbps: float = 1000.0
    rtt_ms: float = 0.5


@dataclass(frozen=True)
class Latency:
    """One request in ms: t1 per member, when each one's features are there, the aggregation, and all of it."""

    compute_ms: tuple[float, ...]
    arrival_ms: tuple[float, ...]
    aggregate_ms: float
    total_ms: float


def estimated_latency(
    devices: Sequence[Device], costs: Sequence[Cost], wire_bytes: Sequence[int], aggregator: Cost, network: Network
) -> Latency:
    """T = max_n(t1 + t2) + t3 with features sent over one shared link, first come, first served.

    As in the paper every device has the input at the start. The central device's own features do not travel (t2 = 0);
    the others wait for the link, then take bytes / rate and half a round trip.

    Args:
        devices: one of them central.
        costs: of the members, in the same order.
        wire_bytes: size of each member's features.
        aggregator: cost of the aggregation on the central device.
        network: the shared link.
    """
    compute = tuple(cost.flops / (device.gflops * 1e6) for cost, device in zip(costs, devices, strict=True))
    arrival = list(compute)
    free = 0.0
    for n in sorted(range(len(devices)), key=lambda n: (compute[n], n)):
        if not devices[n].central:
            free = max(free, compute[n]) + wire_bytes[n] * 8e-3 / network.mbps
            arrival[n] = free + network.rtt_ms / 2
    central = next(device for device in devices if device.central)
    aggregate = aggregator.flops / (central.gflops * 1e6)
    return Latency(compute, tuple(arrival), aggregate, max(arrival) + aggregate)
