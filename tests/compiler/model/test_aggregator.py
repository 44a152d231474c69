"""Aggregation, eq. (2): one linear per subset, folded with the inherited head."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
import torch

from coformer_compiler.model.aggregator import Aggregator, Subset, subset_name, subsets_of
from coformer_compiler.model.head import Head
from coformer_compiler.model.spec import HeadSpec

WIDTHS = (5, 3, 4)


def random_aggregator(widths: tuple[int, ...] = WIDTHS) -> Aggregator:
    torch.manual_seed(7)
    return Aggregator(widths, Head(9, HeadSpec(6))).eval()


def random_features(subset: Subset, batch: int = 1) -> dict[int, torch.Tensor]:
    torch.manual_seed(8)
    every = [torch.randn(batch, width) for width in WIDTHS]
    return {n: every[n] for n in subset}


@pytest.mark.parametrize("members", [1, 2, 3, 4])
def test_all_subsets_of_few_members(members: int) -> None:
    got = subsets_of(members)
    assert set(got) == {
        subset for size in range(1, members + 1) for subset in itertools.combinations(range(members), size)
    }
    assert len(got) == 2**members - 1
    assert [len(subset) for subset in got] == sorted((len(subset) for subset in got), reverse=True)


@pytest.mark.parametrize(("members", "count"), [(5, 1 + 5 + 10), (6, 1 + 6 + 15)])
def test_many_members_may_miss_two(members: int, count: int) -> None:
    got = subsets_of(members)
    assert got[0] == tuple(range(members))
    assert len(set(got)) == len(got) == count
    assert {members - len(subset) for subset in got} == {0, 1, 2}


def test_subset_name() -> None:
    assert [subset_name(subset) for subset in [(0,), (0, 2), [1, 2, 10]]] == ["0", "0-2", "1-2-10"]


@pytest.mark.parametrize("subset", subsets_of(3))
@torch.no_grad()
def test_forward_is_the_definition(subset: Subset) -> None:
    aggregator = random_aggregator()
    features = random_features(subset, batch=4)
    mixer, head = aggregator.mixer(subset), aggregator.head.linear
    want = sum(
        features[n] @ part.T for n, part in zip(subset, mixer.weight.split([WIDTHS[n] for n in subset], 1), strict=True)
    )
    want = (want + mixer.bias) @ head.weight.T + head.bias
    torch.testing.assert_close(aggregator(features), want, atol=1e-5, rtol=0)
    shuffled = dict(reversed(features.items()))
    assert torch.equal(aggregator(shuffled), aggregator(features))


@pytest.mark.parametrize("subset", subsets_of(3))
@torch.no_grad()
def test_folded_is_mixer_and_head(subset: Subset) -> None:
    aggregator = random_aggregator()
    features = random_features(subset, batch=4)
    folded = aggregator.folded(subset)
    assert (folded.features, folded.classes) == (sum(WIDTHS[n] for n in subset), 6)
    got = folded(torch.cat([features[n] for n in subset], 1))
    torch.testing.assert_close(got, aggregator(features), atol=1e-5, rtol=0)


@pytest.mark.parametrize("subset", subsets_of(3))
@torch.no_grad()
def test_columns(subset: Subset) -> None:
    every = random_features((0, 1, 2))
    picked = torch.cat(list(every.values()), 1)[:, random_aggregator().columns(subset)]
    assert torch.equal(picked, torch.cat([every[n] for n in subset], 1))


@pytest.mark.parametrize("subset", subsets_of(3))
@torch.no_grad()
def test_lowered_equals_torch(subset: Subset, run_onnx: Callable[..., list[np.ndarray]]) -> None:
    aggregator = random_aggregator()
    features = random_features(subset)
    model = aggregator.lower(subset)
    assert [(value.name, value.dtype, value.shape and value.shape.numpy()) for value in model.graph.inputs] == [
        (f"features_{n}", ir.DataType.FLOAT, (1, WIDTHS[n])) for n in subset
    ]
    assert [(value.name, value.shape and value.shape.numpy()) for value in model.graph.outputs] == [("logits", (1, 6))]
    (got,) = run_onnx(model, **{f"features_{n}": tensor.numpy() for n, tensor in features.items()})
    np.testing.assert_allclose(got, aggregator(features).numpy(), atol=1e-5)


def test_the_head_is_copied() -> None:
    head = Head(9, HeadSpec(6))
    aggregator = Aggregator(WIDTHS, head)
    with torch.no_grad():
        aggregator.head.linear.weight.zero_()
    assert head.linear.weight.abs().min() > 0


def test_a_subset_without_an_aggregator() -> None:
    aggregator = Aggregator((2,) * 5, Head(9, HeadSpec(6)))
    with pytest.raises(KeyError, match="0-1"):
        aggregator({0: torch.zeros(1, 2), 1: torch.zeros(1, 2)})


def test_cost_is_that_of_the_folded_linear() -> None:
    cost = random_aggregator().cost()
    folded = random_aggregator().folded((0, 1, 2))
    assert cost.params == sum(parameter.numel() for parameter in folded.parameters())
    assert cost.flops == 2 * folded.linear.weight.numel()
