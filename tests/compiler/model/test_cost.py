"""Costs against counts: parameters one by one, FLOPs as torch's own counter sees the same forward pass."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from coformer_compiler.model.cost import Cost, linear_cost
from tests.compiler.tiny import VARIANTS, random_inputs, random_model, tiny_spec


def test_costs_add_up_and_peaks_do_not() -> None:
    assert Cost(1, 20, 300) + Cost(4, 50, 60) == Cost(5, 70, 300)
    assert sum([Cost(1, 2, 3)] * 3, Cost()) == Cost(3, 6, 3)


def test_linear_cost() -> None:
    assert linear_cost(7, 3, 5) == Cost(2 * 7 * 3 * 5, 3 * 5 + 5, 7 * (3 + 5))
    assert linear_cost(7, 3, 5, bias=False).params == 15


@pytest.mark.parametrize("with_head", [False, True])
@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_are_all_parameters(name: str, with_head: bool) -> None:
    model = random_model(VARIANTS[name])
    parts = [model.stem, model.blocks, model.pool, *([model.head] if with_head else [])]
    want = sum(parameter.numel() for part in parts for parameter in part.parameters())
    assert model.cost(with_head=with_head).params == want


@pytest.mark.parametrize("with_head", [False, True])
@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_flops_are_those_of_the_matrix_products(name: str, with_head: bool) -> None:
    """Two per multiply-accumulate, matrix products (the patch convolution is one) and nothing else."""
    model = random_model(VARIANTS[name])
    inputs = random_inputs(model.spec, 1)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        flow = model.flow(inputs)  # `features` leaves out the places that a text does not need
        sent = model.pool.sent(model.pool(flow.x, flow.mask), model.feature_mask(inputs))
        model.head(sent) if with_head else sent
    assert model.cost(with_head=with_head).flops == counter.get_total_flops()


@pytest.mark.parametrize("name", VARIANTS)
def test_a_deeper_model_costs_more_and_peaks_alike(name: str) -> None:
    model = random_model(VARIANTS[name])
    whole = model.cost()
    del model.blocks[2:]
    half = model.cost()
    assert half.flops < whole.flops
    assert half.params < whole.params
    assert half.peak_elements == whole.peak_elements


def test_peak_is_at_least_that_of_any_product() -> None:
    """The widest product's operands and result are alive at once: (tokens, neurons) and (tokens, embed)."""
    wide = tiny_spec(neurons=400)
    assert random_model(wide).cost().peak_elements >= wide.stem.tokens * (400 + wide.embed)
    long = tiny_spec(image=(64, 64), neurons=4)
    assert random_model(long).cost().peak_elements >= 2 * 3 * long.stem.tokens**2
