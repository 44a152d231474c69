"""φ of constraint C6."""

from __future__ import annotations

import dataclasses

import pytest

from coformer_compiler.decomposer.shapes import aggregator_cost
from coformer_compiler.evaluator.memory import BYTES, aggregator_mb, memory_mb
from coformer_compiler.model.cost import Cost
from coformer_compiler.model.spec import HeadSpec
from coformer_targets import load_target, target_names
from tests.compiler.tiny import random_model, tiny_decoder, tiny_seq2seq, tiny_t5


def test_weights_activations_and_the_engine() -> None:
    target = dataclasses.replace(load_target("cpu"), runtime_mb=67)
    cost = Cost(flops=10**12, params=2_000_000, peak_elements=500_000)
    assert memory_mb(cost, target) == pytest.approx(67 + 4 * 2.5)
    assert memory_mb(cost, target, "float16") == pytest.approx(67 + 2 * 2.5)
    assert memory_mb(cost, target, "int8") == pytest.approx(67 + 1 * 2 + 4 * 0.5)
    assert memory_mb(Cost(), target) == 67


def test_what_a_generating_member_holds() -> None:
    """A second graph's weights, tables where the engine does not map them, and keys and values of all sessions."""
    cpu, nano = (dataclasses.replace(load_target(name), runtime_mb=0) for name in ("cpu", "jetson-nano"))
    cost = Cost(10**12, 2_000_000, 500_000, tables=1_500_000, again=400_000, cached=10_000)
    caches = 5 * 4 * 0.01
    assert memory_mb(cost, cpu) == pytest.approx(4 * (2.4 + 0.5) + caches)
    assert memory_mb(cost, nano) == pytest.approx(4 * (2.4 + 1.5 + 0.5) + caches)
    assert memory_mb(cost, cpu, "int8") == memory_mb(cost, cpu), "graphs for single tokens are not quantised"
    answering = dataclasses.replace(cost, again=0)
    assert memory_mb(answering, nano) == pytest.approx(4 * 2.5 + caches)


def test_models_that_take_tokens_one_after_another() -> None:
    continuing, answering, reading = (random_model(spec).cost() for spec in (tiny_decoder(), tiny_seq2seq(), tiny_t5()))
    layers = sum(parameter.numel() for parameter in random_model(tiny_decoder()).blocks.parameters())
    assert continuing.again == layers and continuing.cached == 2 * 2 * 9 * 12
    assert answering.again == 0 and answering.cached == 2 * 2 * (6 + 9) * 15
    assert answering.tables == 23 * 12 + 24 * 10
    assert reading.again == reading.cached == 0


@pytest.mark.parametrize("head", [HeadSpec(50_257), HeadSpec(3, hidden=48)])
def test_the_aggregator_of_all_members(head: HeadSpec) -> None:
    """Its weights in float32; GPT-2 XL's takes 322 MB."""
    assert aggregator_mb(head, 1600.0) == pytest.approx(4 * aggregator_cost([700, 500, 400], head).params / 1e6)
    assert aggregator_mb(HeadSpec(50_257), 1600.0) == pytest.approx(321.8, abs=0.1)


@pytest.mark.parametrize("name", target_names())
def test_the_default_precision_of_every_target_has_a_size(name: str) -> None:
    assert load_target(name).precision in BYTES
