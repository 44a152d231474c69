"""Eqs. (3) to (6) by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from coformer_compiler.evaluator.latency import Latency, Network, request_latencies


def request(
    compute_ms: Sequence[float],
    feature_bytes: Sequence[int],
    network: Network,
    *,
    input_bytes: int = 0,
    t3: float = 0.0,
) -> Latency:
    """One request of members of which the first is central."""
    compute, sizes = (np.array(values)[:, None] for values in (compute_ms, feature_bytes))
    return request_latencies(0, compute.astype(float), sizes, input_bytes, np.array([t3]), network).row(0)


def test_the_slowest_path_and_the_aggregation_add_up() -> None:
    found = request([2.0, 4.0], [400, 1000], Network(8, 2, "present"), t3=0.1)
    assert found.compute_ms == (2.0, 4.0)
    assert found.arrival_ms == (2.0, pytest.approx(4 + 1 + 1))  # 1000 bytes at 8 Mbit/s, half of 2 ms
    assert found.total_ms == pytest.approx(6.1)


def test_transfers_wait_for_the_shared_link() -> None:
    found = request([1.0, 1.0, 1.0], [0, 1000, 1000], Network(8, 0, "present"))
    assert found.arrival_ms == (1.0, 2.0, 3.0)


def test_the_central_features_do_not_travel() -> None:
    assert request([1.0], [10**9], Network(1, 100)).total_ms == 1.0


def test_what_the_central_node_takes_comes_on_top_of_all() -> None:
    assert request([1.0], [10**9], Network(1, 100, node_ms=0.4)).total_ms == 1.4
    without, with_it = (request([1.0, 2.0], [0, 1000], Network(8, 2, node_ms=taken)) for taken in (0.0, 0.4))
    assert with_it.total_ms == pytest.approx(without.total_ms + 0.4) and with_it.arrival_ms == without.arrival_ms


def test_inputs_are_sent_one_after_the_other() -> None:
    found = request([0.0, 1.0, 1.0], [0, 1000, 1000], Network(8, 2), input_bytes=2000)
    # inputs are there after 2 + 1 and 4 + 1 ms; features leave at 4 and 6, take 1 ms and half the round trip
    assert found.arrival_ms == (0.0, pytest.approx(6.0), pytest.approx(8.0))


def test_features_wait_for_inputs_that_are_still_on_the_link() -> None:
    found = request([0.0, 0.0, 0.0], [0, 1000, 1000], Network(8, 0), input_bytes=2000)
    assert found.arrival_ms == (0.0, pytest.approx(5.0), pytest.approx(6.0))


def test_many_policies_at_once_are_each_as_alone() -> None:
    random = np.random.default_rng(0)
    compute, sizes = random.random((3, 50)), random.integers(100, 5000, (3, 50))
    network = Network(80, 0.3)
    many = request_latencies(0, compute, sizes, 4000, np.zeros(50), network)
    for row in range(50):
        alone = request(compute[:, row].tolist(), sizes[:, row].tolist(), network, input_bytes=4000)
        assert many.row(row).arrival_ms == pytest.approx(alone.arrival_ms)


def test_a_device_that_is_left_out_is_as_if_it_were_not_there() -> None:
    network = Network(8, 2)
    compute, sizes = np.array([[1.0], [9.0], [2.0]]), np.array([[0], [500], [1000]])
    present = np.array([[True], [False], [True]])
    found = request_latencies(0, compute, sizes, 700, np.zeros(1), network, present).row(0)
    alone = request([1.0, 2.0], [0, 1000], network, input_bytes=700)
    assert (found.compute_ms[1], found.arrival_ms[1]) == (0.0, 0.0)
    assert (found.arrival_ms[0], found.arrival_ms[2], found.total_ms) == (*alone.arrival_ms, alone.total_ms)
