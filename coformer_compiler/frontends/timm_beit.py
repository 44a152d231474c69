"""timm's Beit (BEiT, BEiT v2): a ViT whose scores have a relative position bias per head.

Folded at import: the table of relative positions into a bias of tokens × tokens, LayerScale into the output
projections, the separate biases of queries and values into one.
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
from coformer_compiler.model.pool import Pool
from coformer_compiler.model.residual import Residual
from coformer_compiler.model.spec import PoolSpec
from coformer_compiler.model.transformer import Transformer

OPTIONS = (
    "img_size",
    "patch_size",
    "in_chans",
    "num_classes",
    "global_pool",
    "embed_dim",
    "depth",
    "num_heads",
    "qkv_bias",
    "mlp_ratio",
    "init_values",
    "use_abs_pos_emb",
    "use_rel_pos_bias",
    "use_shared_rel_pos_bias",
    "use_fc_norm",
)
_PARTS = (
    Part("norm1", NORMS),
    Part("norm2", NORMS),
    Part("attn", ("Attention",)),
    Part("mlp", ("Mlp",)),
    Part("mlp.norm", IDENTITY),
    Part("mlp.act", tuple(ACTIVATIONS)),
)


def transformer_from_beit(beit: nn.Module, source: ModelSource) -> Transformer:
    """The canonical form of a timm Beit.

    Raises:
        CoformerError: if it uses a part that the canonical transformer has no block for; the part is named.
    """
    b: Any = beit
    if b.global_pool not in ("token", "avg"):
        raise foreign(source.name, f"pooling '{b.global_pool}'", "set model.options.global_pool to 'token' or 'avg'")
    if not isinstance(b.head, nn.Linear):
        raise foreign(source.name, "it has no classifier", "set model.options.num_classes")
    refuse_foreign_stem(source.name, b.patch_embed)
    blocks: list[Residual] = []
    with torch.no_grad():
        for layer, block in enumerate(b.blocks):
            refuse_foreign_block(source.name, f"blocks.{layer}", block, "Block", _PARTS)
            blocks += [_attention(layer, block, b.rel_pos_bias), _mlp(layer, block)]
        prefix, positions = b.cls_token[0], None
        if b.pos_embed is not None:
            prefix, positions = prefix + b.pos_embed[0, :1], b.pos_embed[0, 1:]
        stem = patch_stem(b.patch_embed, prefix, positions, None, b, source)
        return Transformer.assemble(stem, blocks, _pool(b), linear_head(b.head.weight, b.head.bias)).eval()


def _attention(layer: int, block: Any, shared: Any) -> Residual:
    attn = block.attn
    bias = None if attn.q_bias is None else torch.cat([attn.q_bias, attn.k_bias, attn.v_bias])
    tables = [] if attn.relative_position_bias_table is None else [attn._get_rel_pos_bias()[0]]
    tables += [] if shared is None else [shared()]
    return attention_block(
        layer,
        norm_of(block.norm1),
        linear_from(attn.qkv.weight, bias),
        scaled(attn.proj, block.gamma_1),
        attn.num_heads,
        score_bias=torch.stack(tables).sum(0) if tables else None,
    )


def _mlp(layer: int, block: Any) -> Residual:
    reader = linear_from(block.mlp.fc1.weight, block.mlp.fc1.bias)
    return mlp_block(layer, norm_of(block.norm2), reader, scaled(block.mlp.fc2, block.gamma_2), block.mlp.act)


def _pool(b: Any) -> Pool:
    norm, fc_norm = norm_or_none(b.norm), norm_or_none(b.fc_norm)
    final = norm if norm is not None else fc_norm
    spec = None if final is None else final.spec
    pool = Pool(PoolSpec("prefix" if b.global_pool == "token" else "mean", 1, spec, norm is not None))
    pool.norm = final
    return pool
