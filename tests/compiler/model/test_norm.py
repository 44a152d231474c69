"""LayerNorm and RMSNorm against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from coformer_compiler.model.norm import Norm
from coformer_compiler.model.spec import NormKind, NormSpec


def random_norm(spec: NormSpec) -> Norm:
    torch.manual_seed(0)
    norm = Norm(spec)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.normal_()
    return norm


def normed(x: np.ndarray, kind: NormKind, eps: float) -> np.ndarray:
    if kind == "rms":
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("eps", [1e-6, 0.3])
@pytest.mark.parametrize("kind", ["layer", "rms"])
@torch.no_grad()
def test_forward_is_the_definition(kind: NormKind, eps: float, affine: bool) -> None:
    norm = random_norm(NormSpec(6, kind, eps, affine))
    x = torch.randn(2, 3, 6)
    want = normed(x.double().numpy(), kind, eps)
    if affine:
        assert norm.weight is not None
        want = want * norm.weight.double().numpy()
    if affine and kind == "layer":
        assert norm.bias is not None
        want = want + norm.bias.double().numpy()
    np.testing.assert_allclose(norm(x).numpy(), want, atol=2e-6)


def test_what_has_gain_and_bias() -> None:
    names = {
        (kind, affine): [name for name, _ in Norm(NormSpec(4, kind, affine=affine)).named_parameters()]
        for kind in ("layer", "rms")
        for affine in (True, False)
    }
    assert names == {
        ("layer", True): ["weight", "bias"],
        ("layer", False): [],
        ("rms", True): ["weight"],
        ("rms", False): [],
    }


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_take_indexes_gain_and_bias(kind: NormKind) -> None:
    norm = random_norm(NormSpec(6, kind, 1e-3))
    taken = norm.take([4, 0, 3])
    assert taken.spec == NormSpec(3, kind, 1e-3)
    assert taken.weight is not None and norm.weight is not None
    assert torch.equal(taken.weight, norm.weight[[4, 0, 3]])
    if kind == "layer":
        assert taken.bias is not None and norm.bias is not None
        assert torch.equal(taken.bias, norm.bias[[4, 0, 3]])


def test_take_of_a_plain_norm_is_plain() -> None:
    taken = Norm(NormSpec(6, "layer", 1e-5, False)).take([1, 2])
    assert taken.spec == NormSpec(2, "layer", 1e-5, False)
    assert list(taken.parameters()) == []
