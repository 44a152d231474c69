"""What a pool averages, one token after another."""

from __future__ import annotations

import pytest
import torch

from coformer_compiler.model.averaged import averaged, averages, lengths_of
from coformer_compiler.model.transformer import Transformer
from tests.compiler.tiny import VARIANTS, random_inputs, random_model

AVERAGING = [name for name, spec in VARIANTS.items() if averages(spec.pool)]


def model_and_inputs(name: str) -> tuple[Transformer, torch.Tensor]:
    """So many inputs that texts are parted by length."""
    model = random_model(VARIANTS[name], seed=2)
    return model, random_inputs(model.spec, 70, seed=5)


def test_a_mean_that_is_normed_afterwards_is_not_the_last_step() -> None:
    assert "text, mean" in AVERAGING
    assert "stages and windows" in AVERAGING
    assert not {"class token", "norm of the mean", "text, causal"} & set(AVERAGING)


@pytest.mark.parametrize("name", AVERAGING)
@torch.no_grad()
def test_the_means_are_the_features(name: str) -> None:
    model, inputs = model_and_inputs(name)
    found = averaged(model, inputs)
    assert torch.equal(found.lengths, lengths_of(model, inputs))
    torch.testing.assert_close(found.means(), model.features(inputs), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", AVERAGING)
@torch.no_grad()
def test_the_tokens_are_in_the_order_of_the_samples(name: str) -> None:
    model, inputs = model_and_inputs(name)
    found = averaged(model, inputs)
    for n, tokens in enumerate(found.tokens.split(found.lengths.tolist())):
        alone = averaged(model, inputs[n : n + 1])
        torch.testing.assert_close(tokens, alone.tokens, atol=1e-5, rtol=1e-5)
