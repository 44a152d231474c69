"""timm's VisionTransformer and VisionTransformerDistilled (ViT, DeiT, DeiT III, CLIP-style and register variants).

Folded at import: LayerScale into the output projections, the class, distillation and register tokens with their
positions into one prefix, the two heads of a distilled DeiT into one over both tokens.
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
from coformer_compiler.model.head import Head
from coformer_compiler.model.linear import linear_from
from coformer_compiler.model.patch_stem import PatchStem
from coformer_compiler.model.pool import Pool
from coformer_compiler.model.residual import Residual
from coformer_compiler.model.spec import PoolSpec
from coformer_compiler.model.transformer import Transformer

OPTIONS = (
    "img_size",
    "patch_size",
    "in_chans",
    "num_classes",
    "embed_dim",
    "depth",
    "num_heads",
    "mlp_ratio",
    "qkv_bias",
    "qk_norm",
    "proj_bias",
    "init_values",
    "class_token",
    "no_embed_class",
    "reg_tokens",
    "pre_norm",
    "final_norm",
    "fc_norm",
    "global_pool",
    "pool_include_prefix",
)


def transformer_from_vit(vit: nn.Module, source: ModelSource) -> Transformer:
    """The canonical form of a timm vision transformer.

    Raises:
        CoformerError: if it uses a part that the canonical transformer has no block for; the part is named.
    """
    _refuse_foreign_parts(vit, source.name)
    v: Any = vit
    blocks = []
    with torch.no_grad():
        for layer, block in enumerate(v.blocks):
            blocks += [_attention(layer, block), _mlp(layer, block)]
        return Transformer.assemble(_stem(v, source), blocks, _pool(v), _head(v)).eval()


_BLOCK_PARTS = (
    Part("norm1", NORMS),
    Part("norm2", NORMS),
    Part("attn", ("Attention",)),
    Part("attn.norm", IDENTITY),
    Part("attn.q_norm", (*IDENTITY, *NORMS)),
    Part("attn.k_norm", (*IDENTITY, *NORMS)),
    Part("mlp", ("Mlp",)),
    Part("mlp.norm", IDENTITY),
    Part("mlp.act", tuple(ACTIVATIONS)),
)


def _refuse_foreign_parts(vit: nn.Module, name: str) -> None:
    kind = type(vit).__name__
    if kind not in ("VisionTransformer", "VisionTransformerDistilled"):
        raise foreign(name, f"it is a {kind}", "of this family VisionTransformer and its distilled form can be")
    v: Any = vit
    if v.attn_pool is not None or v.global_pool not in ("token", "avg"):
        raise foreign(name, f"pooling '{v.global_pool}'", "set model.options.global_pool to 'token' or 'avg'")
    if not isinstance(v.head, nn.Linear):
        raise foreign(name, "it has no classifier", "set model.options.num_classes")
    for path in ("norm_pre", "norm", "fc_norm"):
        found = type(v.get_submodule(path)).__name__
        if found not in (*IDENTITY, *NORMS):
            raise foreign(name, f"{path} is a {found}", f"it can be {', '.join(NORMS)}")
    refuse_foreign_stem(name, v.patch_embed)
    if v.dynamic_img_size:
        raise foreign(name, "its patch embedding is not a plain convolution of fixed size", "choose another model")
    for index, block in enumerate(v.blocks):
        refuse_foreign_block(name, f"blocks.{index}", block, "Block", _BLOCK_PARTS)
        if block.attn.gate is not None:
            raise foreign(name, f"blocks.{index}.attn is gated", "choose a model without attention gates")


def _stem(v: Any, source: ModelSource) -> PatchStem:
    tokens = [t for t in (v.cls_token, getattr(v, "dist_token", None), v.reg_token) if t is not None]
    prefix = torch.cat([token[0] for token in tokens]) if tokens else torch.zeros(0, v.embed_dim)
    positions = None if v.pos_embed is None else v.pos_embed[0]
    if positions is not None and len(positions) == v.patch_embed.num_patches + len(prefix):
        prefix, positions = prefix + positions[: len(prefix)], positions[len(prefix) :]
    return patch_stem(v.patch_embed, prefix, positions, norm_or_none(v.norm_pre), v, source)


def _attention(layer: int, block: Any) -> Residual:
    attn = block.attn
    return attention_block(
        layer,
        norm_of(block.norm1),
        linear_from(attn.qkv.weight, attn.qkv.bias),
        scaled(attn.proj, getattr(block.ls1, "gamma", None)),
        attn.num_heads,
        query_norm=norm_or_none(attn.q_norm),
        key_norm=norm_or_none(attn.k_norm),
    )


def _mlp(layer: int, block: Any) -> Residual:
    reader = linear_from(block.mlp.fc1.weight, block.mlp.fc1.bias)
    writer = scaled(block.mlp.fc2, getattr(block.ls2, "gamma", None))
    return mlp_block(layer, norm_of(block.norm2), reader, writer, block.mlp.act)


def _pool(v: Any) -> Pool:
    norm, fc_norm = norm_or_none(v.norm), norm_or_none(v.fc_norm)
    final = norm if norm is not None else fc_norm
    if v.global_pool == "token":
        count, kind = (2 if hasattr(v, "dist_token") else 1), "prefix"
    else:
        count, kind = (0 if v.pool_include_prefix else v.num_prefix_tokens), "mean"
    pool = Pool(
        PoolSpec(
            "prefix" if kind == "prefix" else "mean", count, None if final is None else final.spec, norm is not None
        )
    )
    pool.norm = final
    return pool


def _head(v: Any) -> Head:
    weight, bias = v.head.weight, v.head.bias
    if hasattr(v, "head_dist"):
        weight = torch.cat([weight, v.head_dist.weight], 1) / 2
        bias = (bias + v.head_dist.bias) / 2
    return linear_head(weight, bias)
