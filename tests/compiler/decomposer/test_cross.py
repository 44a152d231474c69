"""Heads of cross-attention in policies: dealt out like others, as many as of the other attention, and nowhere else."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from coformer_compiler.decomposer.constraints import check_policy
from coformer_compiler.decomposer.dealing import members_from_shapes
from coformer_compiler.decomposer.policy import (
    LayerShare,
    MemberPolicy,
    Policy,
    policy_from_json,
    policy_json,
    teacher_shape,
)
from coformer_compiler.decomposer.shapes import MemberShape, member_spec, shape_of_member
from coformer_compiler.device import Device
from coformer_compiler.model.spec import CrossAttentionSpec
from coformer_compiler.model.transformer import Transformer
from coformer_runtime.errors import CoformerError
from coformer_targets import load_target
from tests.compiler.tiny import random_inputs, tiny_seq2seq

TEACHER = tiny_seq2seq()
SHAPE = teacher_shape(TEACHER)
DEVICES = tuple(Device(name, load_target("cpu"), 10.0, 4000.0) for name in ("attic", "hall"))
ATTIC = MemberPolicy("attic", 8, (LayerShare(0, (0, 2), (1, 5)), LayerShare(3, (1,), (0, 19), (2,))))
HALL = MemberPolicy("hall", 4, (LayerShare(1, (0,), (3,)), LayerShare(3, (0,), (1,), (0,))))


def policy(*members: MemberPolicy) -> Policy:
    return Policy("file", SHAPE, members)


def refused(*members: MemberPolicy) -> str:
    with pytest.raises(CoformerError) as caught:
        check_policy(policy(*members), TEACHER, SHAPE, DEVICES, overlap=False, shortcuts=True)
    return str(caught.value)


def with_cross(member: MemberPolicy, layer: int, cross: tuple[int, ...]) -> MemberPolicy:
    layers = tuple(replace(share, cross=cross) if share.layer == layer else share for share in member.layers)
    return replace(member, layers=layers)


def test_the_teachers_shape_says_which_layers_have_it() -> None:
    assert SHAPE.cross == (0, 0, 3, 3) and SHAPE.depths == (2, 2) and SHAPE.embeds == (12, 10)


def test_a_policy_survives_its_file() -> None:
    made = policy(ATTIC, HALL)
    check_policy(made, TEACHER, SHAPE, DEVICES, overlap=False, shortcuts=True)
    text = policy_json(made)
    assert policy_from_json(text, "here") == made
    assert json.loads(text)["members"][0]["layers"][0] == {"layer": 0, "heads": [0, 2], "neurons": [1, 5]}


@pytest.mark.parametrize(
    ("member", "said"),
    [
        (with_cross(ATTIC, 3, ()), "layer 3 keeps heads of cross-attention [] of 3; name 1 of 0 to 2, each once"),
        (with_cross(ATTIC, 3, (0, 1)), "layer 3 keeps heads of cross-attention [0, 1] of 3; name 1 of 0 to 2"),
        (with_cross(ATTIC, 3, (3,)), "layer 3 keeps heads of cross-attention [3] of 3"),
        (with_cross(ATTIC, 0, (0, 1)), "layer 0 keeps heads of cross-attention [0, 1] of 0; leave them away"),
        (with_cross(ATTIC, 3, (0,)), "C3: layer 3, head of cross-attention 0 is kept by both 'attic' and 'hall'"),
    ],
)
def test_what_is_refused(member: MemberPolicy, said: str) -> None:
    message = refused(member, HALL)
    assert all(part in message for part in said.split("; "))


def test_each_stage_needs_a_layer() -> None:
    assert "C1: keeps no layer of stage 1 (layers 2 to 3)" in refused(replace(ATTIC, layers=ATTIC.layers[:1]), HALL)


def test_heads_are_dealt_out_by_their_own_scores() -> None:
    scores = {("attention", 2): torch.tensor([3.0, 2.0, 1.0]), ("cross", 2): torch.tensor([1.0, 2.0, 3.0])}
    scores[("mlp", 2)] = torch.arange(20.0)
    shapes = [MemberShape(6, {2: 2}, {2: 3}), MemberShape(4, {2: 1}, {2: 2})]
    first, second = members_from_shapes(["a", "b"], shapes, scores, None)
    assert (first.layers[0].heads, second.layers[0].heads) == ((0, 2), (1,))
    assert (first.layers[0].cross, second.layers[0].cross) == ((0, 2), (1,))
    assert shape_of_member(first) == shapes[0]


@pytest.mark.parametrize("shortcuts", [False, True])
def test_a_members_cross_attention_reads_its_own_memory(shortcuts: bool) -> None:
    spec = member_spec(TEACHER, shape_of_member(ATTIC), shortcuts=shortcuts)
    (cross,) = [block.branch for block in spec.residuals if isinstance(block.branch, CrossAttentionSpec)]
    assert (cross.memory, cross.embed, cross.heads, cross.memory_bias) == (8, 8 * 10 // 12, 1, True)
    assert spec.bridge is not None and spec.bridge.stem.embed == cross.embed
    assert Transformer(spec)(random_inputs(spec, 2)).shape == (2, 6, 23)
