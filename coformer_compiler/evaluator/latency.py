"""Latency of one request, eqs. (3) to (6), before anything is built."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from coformer_compiler.decomposer.shapes import MemberShape
from coformer_compiler.device import Device
from coformer_compiler.evaluator.compute import compute_model
from coformer_compiler.model.spec import HeadSpec, TransformerSpec
from coformer_compiler.profiling.table import Floats, Integers, ShapeTable, table_of_shapes
from coformer_runtime.wire import HEADER

FRAME_BYTES: int = HEADER.size
FEATURE_BYTES = 4


@dataclass(frozen=True)
class Network:
    """The link that all boards share towards the central one.

    Attributes:
        mbps: rate in Mbit/s.
        rtt_ms: round trip in ms, with what the software at both ends takes.
        input: "sent" by the central device to the others with each request, as the runtime does, or "present" on every
            device at the start, as in the paper.
    """

    mbps: float = 1000.0
    rtt_ms: float = 0.5
    input: Literal["sent", "present"] = "sent"


@dataclass(frozen=True)
class Latency:
    """One request in ms: t1 per member, when each one's features are there, the aggregation, and all of it."""

    compute_ms: tuple[float, ...]
    arrival_ms: tuple[float, ...]
    aggregate_ms: float
    total_ms: float


@dataclass(frozen=True)
class Latencies:
    """Of many policies: `compute_ms` and `arrival_ms` `(members, rows)`, `aggregate_ms` and `total_ms` `(rows,)`."""

    compute_ms: Floats
    arrival_ms: Floats
    aggregate_ms: Floats
    total_ms: Floats

    def row(self, number: int) -> Latency:
        """One of them."""
        return Latency(
            tuple(self.compute_ms[:, number].tolist()),
            tuple(self.arrival_ms[:, number].tolist()),
            float(self.aggregate_ms[number]),
            float(self.total_ms[number]),
        )


def request_latencies(
    central: int,
    compute_ms: Floats,
    feature_bytes: Integers,
    input_bytes: int,
    aggregate_ms: Floats,
    network: Network,
) -> Latencies:
    """T = max_n(t1 + t2) + t3 over one shared link, first come, first served.

    The central device has the input and keeps its own features: its t2 is 0. Each other one gets the input (where it is
    sent) in the order of the devices, then computes, then waits for the link. A transfer takes bytes / rate and half
    a round trip.

    Args:
        central: index of the device that aggregates.
        compute_ms: t1, `(members, rows)`.
        feature_bytes: what each member sends, header included, `(members, rows)`.
        input_bytes: what each member is sent, header included.
        aggregate_ms: t3, `(rows,)`.
        network: the link.
    """
    members, rows = compute_ms.shape
    sent = network.input == "sent"
    input_ms = input_bytes * 8e-3 / network.mbps if sent else 0.0
    others = [n for n in range(members) if n != central]
    ready = compute_ms.copy()
    for place, n in enumerate(others, 1):
        ready[n] += place * input_ms + (network.rtt_ms / 2 if sent else 0.0)
    arrival = ready.copy()
    free = np.full(rows, len(others) * input_ms)
    order = np.argsort(ready, axis=0, kind="stable")
    every = np.arange(rows)
    transfer_ms = feature_bytes * 8e-3 / network.mbps
    for turn in range(members):
        n = order[turn]
        travels = n != central
        free = np.where(travels, np.maximum(free, ready[n, every]) + transfer_ms[n, every], free)
        arrival[n, every] = np.where(travels, free + network.rtt_ms / 2, ready[n, every])
    return Latencies(compute_ms, arrival, aggregate_ms, arrival.max(0) + aggregate_ms)


class LatencyModel:
    """Latencies of policies for some devices; t1 of each comes from the best that is known of it.

    Attributes:
        compute: one model per device.
    """

    def __init__(self, teacher: TransformerSpec, devices: Sequence[Device], network: Network) -> None:
        """`devices`: one of them central."""
        self.teacher, self.devices, self.network = teacher, tuple(devices), network
        self.compute = tuple(compute_model(device, teacher) for device in devices)
        self.central = next(n for n, device in enumerate(devices) if device.central)

    @property
    def estimated(self) -> bool:
        """Whether any device's figure is an estimate."""
        return any(model.estimated for model in self.compute)

    def of_tables(self, tables: Sequence[ShapeTable]) -> Latencies:
        """Latencies of many policies; `tables[n]` holds device n's member of each."""
        compute = np.stack([m.latency_ms(self.teacher, t) for m, t in zip(self.compute, tables, strict=True)])
        copies = self.teacher.features // self.teacher.embed
        widths = np.stack([table.embed for table in tables]) * copies
        gflops = self.devices[self.central].gflops
        aggregate = head_flops(self.teacher.head, widths.sum(0)) / (gflops * 1e6)
        return request_latencies(
            self.central,
            compute,
            FRAME_BYTES + FEATURE_BYTES * widths,
            FRAME_BYTES + input_bytes(self.teacher),
            aggregate,
            self.network,
        )

    def of_shapes(self, shapes: Sequence[MemberShape], *, shortcuts: bool) -> Latency:
        """Latency of one policy; `shapes` in the order of the devices."""
        layers = len(self.teacher.layers)
        return self.of_tables([table_of_shapes([shape], layers, shortcuts=shortcuts) for shape in shapes]).row(0)


def input_bytes(teacher: TransformerSpec) -> int:
    """Bytes of one input as it travels."""
    given = teacher.stem.input
    return math.prod(given.shape) * np.dtype(given.dtype).itemsize


def head_flops(head: HeadSpec, widths: Integers) -> Floats:
    """Operations of the folded aggregator on features of these widths together, `(rows,)`; as `Head.cost` counts."""
    inputs = widths.astype(np.float64)
    if head.hidden is None:
        return 2 * inputs * head.classes
    return 2 * inputs * head.hidden + 2 * head.hidden * head.classes
