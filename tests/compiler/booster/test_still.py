"""Features of a LayerNorm do not vary in one direction, and nothing may read along it."""

from __future__ import annotations

import torch

from coformer_compiler.booster.still import forget_still_directions
from coformer_compiler.model.linear import linear_from
from coformer_compiler.model.norm import Norm
from coformer_compiler.model.spec import NormSpec
from tests.compiler.booster.small import small_members, small_split


def test_outputs_stay_and_noise_along_the_direction_goes() -> None:
    torch.manual_seed(0)
    members = small_members()[:2]
    pixels = torch.from_numpy(small_split(32, 3).inputs)
    with torch.no_grad():
        for member in members:
            assert member.pool.norm is not None
            for parameter in member.pool.norm.parameters():
                parameter.add_(torch.randn_like(parameter) / 2)
        features = torch.cat([member.features(pixels) for member in members], 1)
        clean = linear_from(torch.randn(3, features.shape[1]), torch.randn(3))
        forget_still_directions(clean, members)
        # Noise along each member's still direction, as a regression leaves it.
        noise, constant, first = torch.zeros(features.shape[1]), 0.0, 0
        for member in members:
            norm = member.pool.norm
            assert norm is not None and norm.weight is not None and norm.bias is not None
            noise[first : first + len(norm.weight)] = 1 / norm.weight
            constant += float((norm.bias / norm.weight).sum())
            first += len(norm.weight)
        noisy = linear_from(clean.weight + 3 * noise, clean.bias - 3 * constant)
        assert torch.allclose(noisy(features), clean(features), atol=1e-3)
        forget_still_directions(noisy, members)
    assert torch.allclose(noisy.weight, clean.weight, atol=1e-5)
    assert torch.allclose(noisy.bias, clean.bias, atol=1e-5)


def test_a_norm_without_gains_has_a_still_direction_too_and_no_norm_has_none() -> None:
    (member,) = small_members()[:1]
    width = member.spec.embed
    linear = linear_from(torch.randn(3, width), torch.randn(3))
    member.pool.norm = Norm(NormSpec(width, affine=False))
    forget_still_directions(linear, [member])
    assert torch.allclose(linear.weight.sum(1), torch.zeros(3), atol=1e-6)
    before = linear_from(torch.randn(3, width), torch.randn(3))
    member.pool.norm = None
    after = linear_from(before.weight, before.bias)
    forget_still_directions(after, [member])
    assert torch.equal(after.weight, before.weight) and torch.equal(after.bias, before.bias)
