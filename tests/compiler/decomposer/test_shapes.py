"""Shapes and what they cost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from coformer_compiler.decomposer.policy import LayerShare, MemberPolicy, teacher_shape
from coformer_compiler.decomposer.shapes import (
    MemberShape,
    aggregator_cost,
    cost_of_spec,
    full_shape,
    member_cost,
    member_spec,
    shape_of_member,
)
from coformer_compiler.model.aggregator import Aggregator
from coformer_compiler.model.spec import HeadSpec
from coformer_compiler.model.transformer import Transformer
from tests.compiler.tiny import VARIANTS, random_inputs, random_model, tiny_spec

TAKEN = [name for name, spec in VARIANTS.items() if spec.stem.mix is None and not spec.blocks[0].shortcut]
SHAPE = MemberShape(8, {1: 2}, {1: 6})


@pytest.mark.parametrize("shortcuts", [False, True])
@pytest.mark.parametrize("name", TAKEN)
def test_a_members_spec_is_a_model_that_runs(name: str, shortcuts: bool) -> None:
    teacher = VARIANTS[name]
    spec = member_spec(teacher, SHAPE, shortcuts=shortcuts)
    model = random_model(spec)
    assert model.spec == spec
    assert spec.layers == (1,)
    assert (spec.embeds[0], spec.features) == (8, 8 * teacher.features // teacher.embeds[0])
    assert [block.branch.units for block in model.residuals] == [2, 6]
    assert all((block.shortcut is not None) == (shortcuts or teacher.post_norm) for block in model.residuals)
    assert model.head(model.sent(random_inputs(spec, 2))).shape == (2, teacher.classes)
    norms = [block.norm.spec for block in model.residuals]
    assert not any(norm.affine for norm in norms)
    assert (spec.stem.mix is not None) == (teacher.stem.norm is not None)


def test_costs_without_weights_are_those_with() -> None:
    for teacher in VARIANTS.values():
        assert cost_of_spec(teacher) == Transformer(teacher).cost()
        assert cost_of_spec(teacher, with_head=True) == Transformer(teacher).cost(with_head=True)


def test_costs_do_not_load_the_compiler_of_torch() -> None:
    """Some initialisers do on a device without memory, and every command would start two seconds later."""
    code = """
import sys
from coformer_compiler.decomposer.shapes import MemberShape, member_cost
from tests.compiler.tiny import VARIANTS
for teacher in VARIANTS.values():
    for shortcuts in (False, True):
        member_cost(teacher, MemberShape(8, {1: 2}, {1: 6}), shortcuts=shortcuts)
sys.exit("torch._dynamo" in sys.modules)
"""
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_shortcuts_add_a_matrix_per_sub_block() -> None:
    teacher = tiny_spec()
    plain, moved = (member_cost(teacher, SHAPE, shortcuts=shortcuts) for shortcuts in (False, True))
    assert moved.params - plain.params == 2 * 8 * 8
    assert moved.flops - plain.flops == 2 * 2 * teacher.stem.tokens * 8 * 8


def test_a_third_in_every_width_is_a_ninth_of_the_work() -> None:
    teacher = tiny_spec(embed=96, heads=6, head_dim=16, neurons=384, layers=6, image=(8, 8), patch=(2, 2))
    third = MemberShape(32, dict.fromkeys(range(6), 2), dict.fromkeys(range(6), 128))
    ratio = member_cost(teacher, third, shortcuts=False).flops / cost_of_spec(teacher).flops
    assert 1 / 9 < ratio < 1 / 8


def test_full_shape_and_back() -> None:
    spec = tiny_spec()
    assert full_shape(teacher_shape(spec)) == MemberShape(12, {0: 3, 1: 3}, {0: 20, 1: 20})
    member = MemberPolicy("attic", 8, (LayerShare(1, (0, 2), (0, 1, 5, 6, 7, 8)),))
    assert shape_of_member(member) == SHAPE


def test_aggregator_cost_is_the_aggregators() -> None:
    assert (
        aggregator_cost([5, 3, 4], HeadSpec(6)) == Aggregator((5, 3, 4), Transformer(tiny_spec(classes=6)).head).cost()
    )
