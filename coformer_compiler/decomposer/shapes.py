"""Member shapes before anything is selected: how wide, how deep, how many heads and neurons.

A strategy decides shapes from shares; importance decides later which heads and neurons fill them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from coformer_compiler.decomposer.policy import MemberPolicy, TeacherShape
from coformer_compiler.device import Device
from coformer_compiler.model.cost import Cost
from coformer_compiler.model.merge import PARTS
from coformer_compiler.model.spec import (
    BranchSpec,
    BridgeSpec,
    CrossAttentionSpec,
    HeadSpec,
    MergeSpec,
    MlpSpec,
    NormSpec,
    ResidualSpec,
    TransformerSpec,
)


@dataclass(frozen=True)
class MemberShape:
    """Shape of one member: heads and neurons per kept layer, `{layer: count}`; as many heads of cross-attention.

    `embed` is the width of the first stage's stream; those of the others go with it (`stage_widths`).
    """

    embed: int
    heads: dict[int, int]
    neurons: dict[int, int]


MaybeShape = MemberShape | None
"""None: the device is left out."""


def kept_of(devices: Sequence[Device], shapes: Sequence[MaybeShape]) -> tuple[list[Device], list[MemberShape]]:
    """The devices that take part, and their shapes."""
    pairs = [(device, shape) for device, shape in zip(devices, shapes, strict=True) if shape is not None]
    return [device for device, _ in pairs], [shape for _, shape in pairs]


def feature_widths(teacher: TransformerSpec, shapes: Sequence[MemberShape]) -> list[int]:
    """How many features each member sends."""
    copies = teacher.features // teacher.embed
    return [stage_widths(teacher.embeds, shape.embed)[-1] * copies for shape in shapes]


def stage_widths(embeds: Sequence[int], embed: int) -> tuple[int, ...]:
    """Stream widths of a member that is `embed` wide in the first stage, for a teacher of the widths `embeds`.

    Rounded down, so that members whose first widths add up to the teacher's at most do so in every stage.
    """
    return tuple(embed * each // embeds[0] for each in embeds)


def member_spec(teacher: TransformerSpec, shape: MemberShape, *, shortcuts: bool) -> TransformerSpec:
    """The spec of a transplanted member of the given shape.

    Args:
        teacher: spec of the teacher.
        shape: widths of the member.
        shortcuts: whether each sub-block has a matrix in its shortcut (one basis per norm); post-norm ones always do.
    """
    widths = stage_widths(teacher.embeds, shape.embed)
    blocks: list[ResidualSpec | MergeSpec | BridgeSpec] = []
    memory = 0
    for stage, block in zip(teacher.stages, teacher.blocks, strict=False):
        width = widths[stage]
        if isinstance(block, MergeSpec):
            merged = _plain(block.norm, PARTS * width)
            blocks.append(replace(block, embed=width, norm=merged, out=widths[stage + 1], bias=True))
            continue
        if isinstance(block, BridgeSpec):
            memory = width
            blocks.append(
                replace(block, norm=_plain(block.norm, width), stem=replace(block.stem, embed=widths[stage + 1]))
            )
            continue
        if block.layer not in shape.heads:
            continue
        norm = None if block.norm is None else _plain(block.norm, width)
        branch: BranchSpec = replace(block.branch, embed=width, out=width, reader_bias=True, writer_bias=True)
        if isinstance(branch, MlpSpec):
            branch = replace(branch, neurons=shape.neurons[block.layer])
        else:
            branch = replace(branch, heads=shape.heads[block.layer])
        if isinstance(branch, CrossAttentionSpec):
            branch = replace(branch, memory=memory, memory_bias=True)
        blocks.append(ResidualSpec(block.layer, norm, branch, shortcuts or block.post_norm, block.post_norm))
    stem = teacher.stem
    if stem.norm is None:
        stem = replace(stem, embed=shape.embed)
    else:
        inner = min(stem.embed, shape.embed)
        stem = replace(stem, embed=inner, norm=_plain(stem.norm, inner), mix=shape.embed)
    pool = teacher.pool
    if pool.norm is not None:
        pool = replace(pool, norm=_plain(pool.norm, widths[-1]))
    return TransformerSpec(stem, tuple(blocks), pool, teacher.head)


def cost_of_spec(spec: TransformerSpec, *, with_head: bool = False) -> Cost:
    """Cost of a spec's model without allocating its weights."""
    import torch

    from coformer_compiler.model.transformer import Transformer

    with torch.device("meta"):
        return Transformer(spec).cost(with_head=with_head)


def member_cost(teacher: TransformerSpec, shape: MemberShape, *, shortcuts: bool) -> Cost:
    """ω and the parts of φ of a member of the given shape."""
    return cost_of_spec(member_spec(teacher, shape, shortcuts=shortcuts))


def shape_of_member(member: MemberPolicy) -> MemberShape:
    """The shape that a finished policy gives a member."""
    return MemberShape(
        member.embed,
        {share.layer: len(share.heads) for share in member.layers},
        {share.layer: len(share.neurons) for share in member.layers},
    )


def full_shape(teacher: TeacherShape) -> MemberShape:
    """Everything kept."""
    return MemberShape(teacher.embed, dict(enumerate(teacher.heads)), dict(enumerate(teacher.neurons)))


def aggregator_cost(widths: list[int], head: HeadSpec) -> Cost:
    """Cost of the folded aggregator on the central device."""
    import torch

    from coformer_compiler.model.head import Head

    with torch.device("meta"):
        return Head(sum(widths), head).cost()


def _plain(norm: NormSpec, width: int) -> NormSpec:
    """Members' norms have no gain and bias: the linears behind them carry both."""
    return replace(norm, width=width, affine=False)
