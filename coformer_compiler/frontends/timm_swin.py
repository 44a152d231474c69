"""timm's SwinTransformer (Swin, Swin S3): windows that are moved every other layer, and stages of unlike width.

Folded at import: the table of relative positions into a bias of tokens × tokens per head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from coformer_compiler.frontends import ModelSource
from coformer_compiler.frontends.timm_parts import (
    ACTIVATIONS,
    IDENTITY,
    NORMS,
    Part,
    attention_block,
    foreign,
    linear_head,
    mlp_block,
    norm_of,
    norm_or_none,
    patch_stem,
    refuse_foreign_block,
    refuse_foreign_stem,
    scaled,
)
from coformer_compiler.model.linear import linear_from
from coformer_compiler.model.merge import Merge
from coformer_compiler.model.pool import Pool
from coformer_compiler.model.residual import Residual
from coformer_compiler.model.spec import PoolSpec, WindowSpec
from coformer_compiler.model.transformer import Transformer

OPTIONS = (
    "img_size",
    "patch_size",
    "in_chans",
    "num_classes",
    "embed_dim",
    "depths",
    "num_heads",
    "head_dim",
    "window_size",
    "always_partition",
    "mlp_ratio",
    "qkv_bias",
)
_PARTS = (
    Part("norm1", NORMS),
    Part("norm2", NORMS),
    Part("attn", ("WindowAttention",)),
    Part("mlp", ("Mlp",)),
    Part("mlp.norm", IDENTITY),
    Part("mlp.act", tuple(ACTIVATIONS)),
)


def transformer_from_swin(swin: nn.Module, source: ModelSource) -> Transformer:
    """The canonical form of a timm SwinTransformer.

    Raises:
        CoformerError: if it uses a part that the canonical transformer has no block for; the part is named.
    """
    s: Any = swin
    if s.global_pool != "avg":
        raise foreign(source.name, f"pooling '{s.global_pool}'", "leave model.options.global_pool at 'avg'")
    if not isinstance(s.head.fc, nn.Linear):
        raise foreign(source.name, "it has no classifier", "set model.options.num_classes")
    if s.dynamic_img_size:
        raise foreign(source.name, "its image size is not fixed", "choose another model")
    refuse_foreign_stem(source.name, s.patch_embed, (*IDENTITY, *NORMS))
    blocks: list[Residual | Merge] = []
    layer = 0
    with torch.no_grad():
        for stage, swin_stage in enumerate(s.layers):
            if not isinstance(swin_stage.downsample, nn.Identity):
                blocks.append(_merge(stage, swin_stage, source.name))
            for index, block in enumerate(swin_stage.blocks):
                where = f"layers.{stage}.blocks.{index}"
                refuse_foreign_block(source.name, where, block, "SwinTransformerBlock", _PARTS)
                blocks += [_attention(layer, block, where, source.name), _mlp(layer, block)]
                layer += 1
        norm = norm_of(s.norm)
        pool = Pool(PoolSpec("mean", 0, norm.spec, True))
        pool.norm = norm
        stem_norm = norm_or_none(s.patch_embed.norm)
        stem = patch_stem(s.patch_embed, torch.zeros(0, s.patch_embed.proj.out_channels), None, stem_norm, s, source)
        return Transformer.assemble(stem, blocks, pool, linear_head(s.head.fc.weight, s.head.fc.bias)).eval()


def _merge(stage: int, swin_stage: Any, name: str) -> Merge:
    down, across = swin_stage.input_resolution
    if down % 2 or across % 2:
        raise foreign(
            name, f"stage {stage} merges a grid of {down} x {across}", "choose an image size that halves evenly"
        )
    merging = swin_stage.downsample
    return Merge.assemble((down, across), norm_of(merging.norm), linear_from(merging.reduction.weight, None))


def _attention(layer: int, block: Any, where: str, name: str) -> Residual:
    grid, size = tuple(block.input_resolution), tuple(block.window_size)
    if grid[0] % size[0] or grid[1] % size[1]:
        raise foreign(
            name,
            f"{where} has windows of {size[0]} x {size[1]} in a grid of {grid[0]} x {grid[1]}",
            "choose an image size and a window size with whole windows in every stage",
        )
    attn = block.attn
    window = WindowSpec((grid[0], grid[1]), (size[0], size[1]), tuple(block.shift_size))
    return attention_block(
        layer,
        norm_of(block.norm1),
        linear_from(attn.qkv.weight, attn.qkv.bias),
        scaled(attn.proj, None),
        attn.num_heads,
        score_bias=attn._get_rel_pos_bias()[0],
        window=None if window.windows == 1 and not any(window.shift) else window,
    )


def _mlp(layer: int, block: Any) -> Residual:
    reader = linear_from(block.mlp.fc1.weight, block.mlp.fc1.bias)
    return mlp_block(layer, norm_of(block.norm2), reader, scaled(block.mlp.fc2, None), block.mlp.act)
