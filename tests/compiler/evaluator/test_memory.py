"""φ of constraint C6."""

from __future__ import annotations

import dataclasses

import pytest

from coformer_compiler.evaluator.memory import BYTES, memory_mb
from coformer_compiler.model.cost import Cost
from coformer_targets import load_target, target_names


def test_weights_activations_and_the_engine() -> None:
    target = dataclasses.replace(load_target("cpu"), runtime_mb=67)
    cost = Cost(flops=10**12, params=2_000_000, peak_elements=500_000)
    assert memory_mb(cost, target) == pytest.approx(67 + 4 * 2.5)
    assert memory_mb(cost, target, "float16") == pytest.approx(67 + 2 * 2.5)
    assert memory_mb(cost, target, "int8") == pytest.approx(67 + 1 * 2 + 4 * 0.5)
    assert memory_mb(Cost(), target) == 67


@pytest.mark.parametrize("name", target_names())
def test_the_default_precision_of_every_target_has_a_size(name: str) -> None:
    assert load_target(name).precision in BYTES
