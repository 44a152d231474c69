"""One residual sub-block: shortcut(x) + branch(norm(x))."""

from __future__ import annotations

import pytest
import torch

from coformer_compiler.model.residual import Residual
from coformer_compiler.model.spec import AttentionSpec, MlpSpec, NormSpec, ResidualSpec
from tests.compiler.tiny import VARIANTS, random_inputs, random_model

BRANCHES = [AttentionSpec(6, 2, 4, 6), MlpSpec(6, 9, 6)]


@pytest.mark.parametrize("branch", BRANCHES)
@torch.no_grad()
def test_forward_is_the_definition(branch: AttentionSpec | MlpSpec) -> None:
    torch.manual_seed(4)
    x = torch.randn(2, 5, 6)
    plain = Residual(ResidualSpec(3, NormSpec(6), branch))
    torch.testing.assert_close(plain(x), x + plain.branch(plain.norm(x)))
    moved = Residual(ResidualSpec(3, NormSpec(6), branch, shortcut=True))
    assert moved.shortcut is not None
    torch.testing.assert_close(moved(x), x + moved.branch(moved.norm(x)), msg="the matrix starts as the identity")
    moved.shortcut.weight.normal_()
    torch.testing.assert_close(moved(x), x @ moved.shortcut.weight.T + moved.branch(moved.norm(x)))


@torch.no_grad()
def test_shortcut_may_change_the_width() -> None:
    block = Residual(ResidualSpec(0, NormSpec(6), MlpSpec(6, 9, 4), shortcut=True))
    x = torch.randn(2, 5, 6)
    assert block(x).shape == (2, 5, 4)
    assert block.spec == ResidualSpec(0, NormSpec(6), MlpSpec(6, 9, 4), shortcut=True)


@pytest.mark.parametrize("branch", BRANCHES)
def test_take_keeps_the_layer_and_narrows_the_rest(branch: AttentionSpec | MlpSpec) -> None:
    block = Residual(ResidualSpec(3, NormSpec(6), branch))
    taken = block.take([1], [5, 0, 2])
    assert (taken.layer, taken.kind, taken.branch.units) == (3, block.kind, 1)
    assert taken.spec.norm.width == taken.spec.branch.embed == taken.spec.branch.out == 3


def test_take_refuses_a_shortcut_matrix() -> None:
    block = Residual(ResidualSpec(3, NormSpec(6), BRANCHES[1], shortcut=True))
    with pytest.raises(ValueError, match="layer 3 has a shortcut matrix and no channels to select"):
        block.take([0], [0])


@torch.no_grad()
def test_post_norm_starts_behind_the_norm() -> None:
    """A chain of these is BERT's: each sum is normed, and the normed sum is both what is read and what is added to."""
    model = random_model(VARIANTS["text, post-norm"])
    ids = random_inputs(model.spec, 2)
    mask, x = model.stem.mask(ids), model.stem(ids)
    first, second = model.residuals[:2]
    assert first.norm is not None and second.norm is not None and first.post_norm
    hidden = first.norm(x)
    after_attention = second.norm(hidden + first.branch(hidden, mask))
    want = after_attention + second.branch(after_attention, mask)
    torch.testing.assert_close(second(first(x, mask), mask), want)
