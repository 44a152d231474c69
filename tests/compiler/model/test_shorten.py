"""A model at a shorter length, and graphs for several samples at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coformer_compiler.model.shorten import at_length
from coformer_compiler.model.spec import TokenStemSpec
from tests.compiler.tiny import VARIANTS, random_inputs, random_model

TEXTS = [name for name, spec in VARIANTS.items() if isinstance(spec.stem, TokenStemSpec) and spec.pool.kind != "causal"]


@pytest.mark.parametrize("name", TEXTS)
@settings(max_examples=8)
@given(length=st.integers(2, 9), seed=st.integers(0, 99))
@torch.no_grad()
def test_a_text_that_fits_has_the_same_features(name: str, length: int, seed: int) -> None:
    model = random_model(VARIANTS[name], seed=3)
    shorter = at_length(model, length)
    inputs = random_inputs(shorter.spec, 3, seed)
    longest = random_inputs(model.spec, 3, seed)
    longest[:] = torch.nn.functional.pad(inputs, (0, longest.shape[-1] - length), value=0)
    torch.testing.assert_close(shorter.sent(inputs), model.sent(longest), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", TEXTS)
@torch.no_grad()
def test_texts_of_like_length_are_computed_together(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(VARIANTS[name], seed=3)
    inputs = random_inputs(model.spec, 50, seed=1)
    flow = model.flow(inputs)
    wanted, computed = model.pool(flow.x, flow.mask), []
    whole = model.flow
    monkeypatch.setattr(model, "flow", lambda part: computed.append(part.shape) or whole(part))
    torch.testing.assert_close(model.features(inputs), wanted, atol=1e-5, rtol=1e-5)
    assert sum(shape[0] for shape in computed) == 50
    assert computed[0][-1] < computed[-1][-1] <= inputs.shape[-1]


@pytest.mark.parametrize("name", TEXTS)
@torch.no_grad()
def test_texts_without_a_token_keep_the_places_that_the_pool_reads(name: str) -> None:
    model = random_model(VARIANTS[name], seed=3)
    assert torch.isfinite(model.features(torch.zeros_like(random_inputs(model.spec, 2)))).all()


@pytest.mark.parametrize("name", TEXTS)
def test_the_weights_are_shared(name: str) -> None:
    model = random_model(VARIANTS[name])
    own = {parameter.data_ptr() for parameter in model.parameters()}
    assert all(parameter.data_ptr() in own for parameter in at_length(model, 5).parameters() if parameter.ndim < 3)
    assert model.stem.spec.length == 9


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_a_batch_in_onnx_runtime_equals_torch(name: str, run_onnx: Callable[..., list[np.ndarray]]) -> None:
    model = random_model(VARIANTS[name], seed=6)
    inputs = random_inputs(model.spec, 3)
    lowered = model.lower("tiny", batch=3)
    (got,) = run_onnx(lowered, **{model.spec.stem.input.name: inputs.numpy()})
    np.testing.assert_allclose(got, model.sent(inputs).numpy(), atol=1e-5)
