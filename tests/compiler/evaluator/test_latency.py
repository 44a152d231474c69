"""Eqs. (3) to (6) by hand."""

from __future__ import annotations

import pytest

from coformer_compiler.device import Device
from coformer_compiler.evaluator.latency import Network, estimated_latency
from coformer_compiler.model.cost import Cost
from coformer_targets import load_target


def device(name: str, gflops: float, *, central: bool = False) -> Device:
    return Device(name, load_target("cpu"), gflops, 500.0, None, central)


def test_the_slowest_path_and_the_aggregation_add_up() -> None:
    devices = [device("a", 10, central=True), device("b", 5)]
    found = estimated_latency(
        devices, [Cost(20_000_000), Cost(20_000_000)], [400, 1000], Cost(1_000_000), Network(8, 2)
    )
    assert found.compute_ms == (2.0, 4.0)
    assert found.arrival_ms == (2.0, pytest.approx(4 + 1 + 1))  # 1000 bytes at 8 Mbit/s, half of 2 ms
    assert found.aggregate_ms == 0.1
    assert found.total_ms == pytest.approx(6.1)


def test_transfers_wait_for_the_shared_link() -> None:
    devices = [device("a", 10, central=True), device("b", 10), device("c", 10)]
    costs = [Cost(10_000_000)] * 3
    found = estimated_latency(devices, costs, [0, 1000, 1000], Cost(), Network(8, 0))
    assert found.arrival_ms == (1.0, 2.0, 3.0)


def test_the_central_features_do_not_travel() -> None:
    found = estimated_latency([device("a", 10, central=True)], [Cost(10_000_000)], [10**9], Cost(), Network(1, 100))
    assert found.total_ms == 1.0
