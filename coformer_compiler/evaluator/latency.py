"""Latency of one request, eqs. (3) to (6), before anything is built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from coformer_compiler.decomposer.shapes import MaybeShape
from coformer_compiler.device import Device
from coformer_compiler.evaluator.compute import compute_model
from coformer_compiler.evaluator.wire import OVERHEAD_BYTES, input_bytes
from coformer_compiler.model.spec import HeadSpec, TransformerSpec
from coformer_compiler.profiling.table import Booleans, Floats, Integers, ShapeTable, table_of_shapes

FEATURE_BYTES = 4


@dataclass(frozen=True)
class Network:
    """The link that all boards share towards the central one.

    Attributes:
        mbps: rate in Mbit/s.
        rtt_ms: round trip in ms, with what the software at both ends takes.
        input: "sent" by the central device to the others with each request, as the runtime does, or "present" on every
            device at the start, as in the paper.
        node_ms: what a request takes on the central node beside its engines, in ms: threads that are woken, frames.
    """

    mbps: float = 1000.0
    rtt_ms: float = 0.5
    input: Literal["sent", "present"] = "sent"
    node_ms: float = 0.0


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
    present: Booleans | None = None,
) -> Latencies:
    """T = max_n(t1 + t2) + t3 over one shared link, first come, first served; and what the central node itself takes.

    The central device has the input and keeps its own features: its t2 is 0. Each other one gets the input (where it is
    sent) in the order of the devices, then computes, then waits for the link. A transfer takes bytes / rate and half
    a round trip.

    Args:
        central: index of the device that aggregates.
        compute_ms: t1, `(members, rows)`.
        feature_bytes: what each member sends, headers included, `(members, rows)`.
        input_bytes: what each member is sent, headers included.
        aggregate_ms: t3, `(rows,)`.
        network: the link.
        present: which members take part, `(members, rows)`, the central one always; all of them where none. Those that
            do not have t1 and arrival 0.
    """
    travels = np.ones(compute_ms.shape, bool) if present is None else present.copy()
    compute = np.where(travels, compute_ms, 0.0)
    travels[central] = False
    way_ms = network.rtt_ms / 2
    ready = compute.copy()
    free = np.zeros(compute.shape[1])
    if network.input == "sent":
        turns = np.cumsum(travels, axis=0)
        input_ms = input_bytes * 8e-3 / network.mbps
        ready += np.where(travels, turns * input_ms + way_ms, 0.0)
        free = turns[-1] * input_ms
    arrival = ready.copy()
    every = np.arange(compute.shape[1])
    transfer_ms = feature_bytes * 8e-3 / network.mbps
    for n in np.argsort(ready, axis=0, kind="stable"):
        moves = travels[n, every]
        free = np.where(moves, np.maximum(free, ready[n, every]) + transfer_ms[n, every], free)
        arrival[n, every] = np.where(moves, free + way_ms, ready[n, every])
    return Latencies(compute, arrival, aggregate_ms, arrival.max(0) + aggregate_ms + network.node_ms)


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

    def of_tables(self, tables: Sequence[ShapeTable], network: Network | None = None) -> Latencies:
        """Latencies of many policies; `tables[n]` holds device n's member of each, of width 0 where it is left out.

        `network` stands in for the model's own.
        """
        compute = np.stack([m.latency_ms(self.teacher, t) for m, t in zip(self.compute, tables, strict=True)])
        copies, embeds = self.teacher.features // self.teacher.embed, self.teacher.embeds
        widths = np.stack([table.embed * embeds[-1] // embeds[0] for table in tables]) * copies
        gflops = self.devices[self.central].gflops
        aggregate = head_flops(self.teacher.head, widths.sum(0)) / (gflops * 1e6)
        return request_latencies(
            self.central,
            compute,
            OVERHEAD_BYTES + FEATURE_BYTES * widths,
            input_bytes(self.teacher.stem.input),
            aggregate,
            network or self.network,
            widths > 0,
        )

    def of_shapes(self, shapes: Sequence[MaybeShape], *, shortcuts: bool) -> Latency:
        """Latency of one policy; `shapes` in the order of the devices. Tells of those that take part."""
        layers = len(self.teacher.layers)
        found = self.of_tables([table_of_shapes([shape], layers, shortcuts=shortcuts) for shape in shapes]).row(0)
        kept = [n for n, shape in enumerate(shapes) if shape is not None]
        compute, arrival = ([times[n] for n in kept] for times in (found.compute_ms, found.arrival_ms))
        return Latency(tuple(compute), tuple(arrival), found.aggregate_ms, found.total_ms)


def head_flops(head: HeadSpec, widths: Integers) -> Floats:
    """Operations of the folded aggregator on features of these widths together, `(rows,)`; as `Head.cost` counts."""
    inputs = widths.astype(np.float64)
    if head.hidden is None:
        return 2 * inputs * head.classes
    return 2 * inputs * head.hidden + 2 * head.hidden * head.classes
