"""The stem against patches cut out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from coformer_compiler.model.norm import Norm
from coformer_compiler.model.patch_stem import PatchStem
from coformer_compiler.model.spec import NormSpec
from tests.compiler.tiny import random_inputs, random_model, tiny_spec

SPEC = tiny_spec(channels=3, image=(8, 12), patch=(4, 2), prefix=2)


def by_hand(stem: PatchStem, pixels: np.ndarray) -> np.ndarray:
    """Tokens of one image, before norm and mix."""
    weights = {name: tensor.double().numpy() for name, tensor in stem.state_dict().items()}
    scaled = (pixels - weights["mean"][:, None, None]) / weights["std"][:, None, None]
    (down, across), (height, width) = stem.spec.grid, stem.spec.patch_size
    tokens = list(weights["prefix"])
    for row in range(down):
        for column in range(across):
            patch = scaled[:, row * height : (row + 1) * height, column * width : (column + 1) * width]
            token = np.tensordot(weights["patches.weight"], patch, 3) + weights["patches.bias"]
            tokens.append(token + weights["positions"][row * across + column])
    return np.stack(tokens)


@torch.no_grad()
def test_tokens_are_patches_with_positions() -> None:
    stem = random_model(SPEC).stem
    assert stem.spec.grid == (2, 6)
    assert stem.spec.tokens == 14
    pixels = random_inputs(SPEC, 2)
    got = stem(pixels)
    assert got.shape == (2, 14, 12)
    for image, tokens in zip(pixels.double().numpy(), got.numpy(), strict=True):
        np.testing.assert_allclose(tokens, by_hand(stem, image), atol=1e-5)


@torch.no_grad()
def test_uint8_and_float_pixels_are_the_same() -> None:
    stem = random_model(SPEC).stem
    pixels = random_inputs(SPEC, 2)
    assert torch.equal(stem(pixels), stem(pixels.float()))


@torch.no_grad()
def test_norm_and_mix_come_behind_the_tokens() -> None:
    spec = tiny_spec(stem_norm=True, mix=10)
    stem = random_model(spec).stem
    assert stem.norm is not None and stem.mix is not None
    pixels = random_inputs(spec, 2)
    x = np.stack([by_hand(stem, image) for image in pixels.double().numpy()])
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    x = x * stem.norm.weight.double().numpy() + stem.norm.bias.double().numpy()
    x = x @ stem.mix.weight.double().numpy().T + stem.mix.bias.double().numpy()
    np.testing.assert_allclose(stem(pixels).numpy(), x, atol=1e-5)


@torch.no_grad()
def test_take_by_hand() -> None:
    stem = random_model(tiny_spec(stem_norm=True)).stem
    channels = [11, 3, 0]
    taken = stem.take(channels)
    assert taken.spec == replace(stem.spec, embed=3, norm=NormSpec(3))
    for name in ("patches.weight", "patches.bias", "norm.weight", "norm.bias"):
        assert torch.equal(taken.state_dict()[name], stem.state_dict()[name][channels]), name
    for name in ("prefix", "positions"):
        assert torch.equal(taken.state_dict()[name], stem.state_dict()[name][:, channels]), name
    assert torch.equal(taken.mean, stem.mean)
    assert torch.equal(taken.std, stem.std)


def test_take_refuses_a_mix() -> None:
    with pytest.raises(ValueError, match="mix matrix and no channels"):
        random_model(tiny_spec(stem_norm=True, mix=10)).stem.take([0, 1])


@torch.no_grad()
def test_projection_is_the_embedding_times_the_basis() -> None:
    stem = random_model(SPEC).stem
    basis = torch.randn(5, 12, dtype=torch.float64)
    pixels = random_inputs(SPEC, 2)
    projected = stem.project(basis)
    assert projected.spec == replace(stem.spec, embed=5)
    torch.testing.assert_close(projected(pixels), stem(pixels) @ basis.float().T, atol=1e-4, rtol=0)


@torch.no_grad()
def test_with_norm_puts_norm_and_linear_behind() -> None:
    stem = random_model(SPEC).stem
    pixels = random_inputs(SPEC, 2)
    norm, weight, bias = Norm(NormSpec(12, affine=False)), torch.randn(5, 12), torch.randn(5)
    want = norm(stem(pixels)) @ weight.T + bias
    made = stem.with_norm(norm, weight, bias)
    assert (made.spec.norm, made.spec.mix, made.spec.out) == (norm.spec, 5, 5)
    torch.testing.assert_close(made(pixels), want, atol=1e-5, rtol=0)
