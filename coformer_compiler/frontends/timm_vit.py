"""timm's VisionTransformer and VisionTransformerDistilled (ViT, DeiT, DeiT III, CLIP-style and register variants).

Folded at import: LayerScale into the output projections, the class, distillation and register tokens with their
positions into one prefix, the two heads of a distilled DeiT into one over both tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from coformer_compiler.frontends import ModelSource
from coformer_compiler.frontends.weights import load_into, read_hub_folder, read_state_dict
from coformer_compiler.model.attention import Attention
from coformer_compiler.model.head import Head
from coformer_compiler.model.linear import linear_from
from coformer_compiler.model.mlp import Mlp
from coformer_compiler.model.norm import Norm
from coformer_compiler.model.patch_stem import PatchStem
from coformer_compiler.model.pool import Pool
from coformer_compiler.model.residual import Residual
from coformer_compiler.model.spec import (
    Activation,
    AttentionSpec,
    HeadSpec,
    MlpSpec,
    NormKind,
    NormSpec,
    PatchStemSpec,
    PoolSpec,
)
from coformer_compiler.model.transformer import Transformer
from coformer_compiler.torchvision_operators import ensure_torchvision_operators
from coformer_runtime.errors import CheckFailed, CoformerError

TOLERANCE = 1e-4  # largest difference of logits between original and import, relative to the largest logit

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


def transformer_from_timm(source: ModelSource) -> Transformer:
    """Import `timm:NAME`; see `coformer_compiler.frontends.import_model`."""
    original = timm_from_source(source)
    imported = transformer_from_vit(original, source)
    verify_import(original, imported, source.name)
    return imported


def timm_from_source(source: ModelSource) -> nn.Module:
    """The timm model itself, with its weights, in evaluation mode."""
    ensure_torchvision_operators()
    import timm

    name = source.name.partition(":")[2]
    options: dict[str, Any] = dict(source.options)
    normalisation: dict[str, Any] = {}
    checkpoint = source.checkpoint
    if checkpoint is not None and checkpoint.is_dir():
        config, checkpoint = read_hub_folder(checkpoint)
        if config.get("architecture", name) != name:
            what = f"the folder holds a '{config['architecture']}'"
            raise CoformerError(what, f"model '{source.name}'", f"write model.name = 'timm:{config['architecture']}'")
        options = {**config.get("model_args", {}), "num_classes": config.get("num_classes"), **options}
        data = config.get("pretrained_cfg", config)
        normalisation = {key: data[key] for key in ("mean", "std") if key in data}
    _check_name_and_options(name, options)
    torch.manual_seed(source.seed)
    try:
        model: nn.Module = timm.create_model(
            name, pretrained=source.weights == "hub", pretrained_cfg_overlay=normalisation, **options
        )
    except (TypeError, AssertionError, ValueError) as error:
        raise CoformerError(
            f"timm refuses the options ({error})", f"model '{source.name}'", "check model.options"
        ) from error
    if checkpoint is not None:
        load_into(model, read_state_dict(checkpoint), f"checkpoint {checkpoint}")
    return model.eval()


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


def verify_import(vit: nn.Module, imported: Transformer, name: str) -> None:
    """Compare logits on seeded random pixels.

    Raises:
        CheckFailed: if they differ by more than `TOLERANCE`; that is a bug of the importer.
    """
    spec = imported.stem.spec
    assert isinstance(imported.stem, PatchStem) and isinstance(spec, PatchStemSpec)
    shape = (2, spec.channels, *spec.image_size)
    pixels = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).float()
    with torch.no_grad():
        scaled = (pixels - imported.stem.mean[:, None, None]) / imported.stem.std[:, None, None]
        want, got = vit(scaled), imported(pixels)
    error = float((want - got).abs().max() / want.abs().max().clamp(min=1))
    if not error <= TOLERANCE:
        raise CheckFailed(
            f"imported logits differ by {error:.2e}", f"model '{name}'", "report this model name as a bug"
        )


def _check_name_and_options(name: str, options: dict[str, Any]) -> None:
    import difflib

    import timm

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), 3, 0.4)
        raise CoformerError(
            f"timm has no model '{name}'", "model.name", f"did you mean {' or '.join(near) or 'another'}?"
        )
    for key in options:
        if key not in OPTIONS:
            near = difflib.get_close_matches(key, OPTIONS, 1, 0)
            raise CoformerError(f"unknown option '{key}'", "model.options", f"did you mean '{near[0]}'?")


@dataclass(frozen=True)
class _Part:
    """A place in a timm model and the class names that can be imported from there."""

    path: str
    allowed: tuple[str, ...]


_IDENTITY, _NORMS = ("Identity",), ("LayerNorm", "RmsNorm", "LayerNormFp32", "LayerNormAct")
_BLOCK_PARTS = (
    _Part("norm1", _NORMS),
    _Part("norm2", _NORMS),
    _Part("attn", ("Attention",)),
    _Part("attn.norm", _IDENTITY),
    _Part("attn.q_norm", (*_IDENTITY, *_NORMS)),
    _Part("attn.k_norm", (*_IDENTITY, *_NORMS)),
    _Part("mlp", ("Mlp",)),
    _Part("mlp.norm", _IDENTITY),
    _Part("mlp.act", ("GELU", "GELUTanh", "ReLU", "SiLU", "QuickGELU")),
)


def _refuse_foreign_parts(vit: nn.Module, name: str) -> None:
    kind = type(vit).__name__
    if kind not in ("VisionTransformer", "VisionTransformerDistilled"):
        raise _foreign(name, f"it is a {kind}", "the importable kinds are VisionTransformer and its distilled form")
    v: Any = vit
    if v.attn_pool is not None or v.global_pool not in ("token", "avg"):
        raise _foreign(name, f"pooling '{v.global_pool}'", "set model.options.global_pool to 'token' or 'avg'")
    if not isinstance(v.head, nn.Linear):
        raise _foreign(name, "it has no classifier", "set model.options.num_classes")
    for path in ("norm_pre", "norm", "fc_norm"):
        found = type(v.get_submodule(path)).__name__
        if found not in (*_IDENTITY, *_NORMS):
            raise _foreign(name, f"{path} is a {found}", f"it can be {', '.join(_NORMS)}")
    if (
        v.dynamic_img_size
        or not isinstance(v.patch_embed.norm, nn.Identity)
        or not isinstance(v.patch_embed.proj, nn.Conv2d)
    ):
        raise _foreign(name, "its patch embedding is not a plain convolution of fixed size", "choose another model")
    for index, block in enumerate(v.blocks):
        if type(block).__name__ != "Block":
            raise _foreign(name, f"blocks.{index} is a {type(block).__name__}", "choose a model of plain blocks")
        for part in _BLOCK_PARTS:
            found = type(block.get_submodule(part.path)).__name__
            if found not in part.allowed:
                raise _foreign(name, f"blocks.{index}.{part.path} is a {found}", f"it can be {', '.join(part.allowed)}")
        if block.attn.gate is not None:
            raise _foreign(name, f"blocks.{index}.attn is gated", "choose a model without attention gates")


def _foreign(name: str, what: str, mend: str) -> CoformerError:
    return CoformerError(f"cannot be imported: {what}", f"model '{name}'", mend)


def _stem(v: Any, source: ModelSource) -> PatchStem:
    proj, channels = v.patch_embed.proj, v.patch_embed.proj.in_channels
    tokens = [t for t in (v.cls_token, getattr(v, "dist_token", None), v.reg_token) if t is not None]
    prefix = torch.cat([token[0] for token in tokens]) if tokens else torch.zeros(0, v.embed_dim)
    table = torch.zeros(0, v.embed_dim) if v.pos_embed is None else v.pos_embed[0]
    patches = v.patch_embed.num_patches
    if len(table) == patches + len(prefix):
        prefix, positions = prefix + table[: len(prefix)], table[len(prefix) :]
    else:
        positions = table if len(table) else torch.zeros(patches, v.embed_dim)
    norm = _norm(v.norm_pre)
    spec = PatchStemSpec(
        tuple(v.patch_embed.img_size),
        tuple(v.patch_embed.patch_size),
        channels,
        v.embed_dim,
        len(prefix),
        None if norm is None else norm.spec,
    )
    stem = PatchStem(spec)
    stem.norm = norm
    stem.patches.weight.copy_(proj.weight)
    assert stem.patches.bias is not None
    stem.patches.bias.copy_(torch.zeros(v.embed_dim) if proj.bias is None else proj.bias)
    stem.prefix.copy_(prefix)
    stem.positions.copy_(positions)
    stem.mean.copy_(_per_channel(source.mean or v.pretrained_cfg["mean"], channels) * 255)
    stem.std.copy_(_per_channel(source.std or v.pretrained_cfg["std"], channels) * 255)
    return stem


def _per_channel(numbers: tuple[float, ...], channels: int) -> torch.Tensor:
    values = torch.tensor(numbers, dtype=torch.float64)
    if len(values) == channels:
        return values
    # Grey images under a model that was configured for three colours: the colours' average.
    return values.mean().expand(channels)


def _attention(layer: int, block: Any) -> Residual:
    attn, norm, query_norm = block.attn, _norm(block.norm1), _norm(block.attn.q_norm)
    assert norm is not None
    reader, writer = linear_from(attn.qkv.weight, attn.qkv.bias), _scaled(attn.proj, block.ls1)
    spec = AttentionSpec(
        reader.in_features,
        attn.num_heads,
        attn.head_dim,
        writer.out_features,
        reader.bias is not None,
        True,
        None if query_norm is None else query_norm.spec,
    )
    with torch.device("meta"):
        branch = Attention(spec)
    branch.reader, branch.writer = reader, writer
    branch.query_norm, branch.key_norm = query_norm, _norm(attn.k_norm)
    return Residual.assemble(layer, norm, branch)


def _mlp(layer: int, block: Any) -> Residual:
    norm = _norm(block.norm2)
    assert norm is not None
    reader, writer = linear_from(block.mlp.fc1.weight, block.mlp.fc1.bias), _scaled(block.mlp.fc2, block.ls2)
    spec = MlpSpec(
        reader.in_features,
        reader.out_features,
        writer.out_features,
        _activation(block.mlp.act),
        reader.bias is not None,
    )
    with torch.device("meta"):
        branch = Mlp(spec)
    branch.reader, branch.writer = reader, writer
    return Residual.assemble(layer, norm, branch)


def _scaled(linear: nn.Linear, scale: Any) -> nn.Linear:
    """`linear` with LayerScale's factor per output folded in; always with a bias, zero where there was none."""
    gamma = getattr(scale, "gamma", None)
    bias = torch.zeros(linear.out_features) if linear.bias is None else linear.bias
    if gamma is None:
        return linear_from(linear.weight, bias)
    return linear_from(linear.weight * gamma[:, None], bias * gamma)


def _activation(act: nn.Module) -> Activation:
    kind = type(act).__name__
    if kind == "GELU":
        return "gelu_tanh" if getattr(act, "approximate", "none") == "tanh" else "gelu"
    kinds: dict[str, Activation] = {"GELUTanh": "gelu_tanh", "ReLU": "relu", "SiLU": "silu", "QuickGELU": "quick_gelu"}
    return kinds[kind]


def _norm(module: Any) -> Norm | None:
    if isinstance(module, nn.Identity):
        return None
    kind: NormKind = "rms" if type(module).__name__ == "RmsNorm" else "layer"
    made = Norm(NormSpec(int(module.normalized_shape[0]), kind, module.eps, module.weight is not None))
    if made.weight is not None:
        made.weight.copy_(module.weight)
    if made.bias is not None and module.bias is not None:
        made.bias.copy_(module.bias)
    return made


def _pool(v: Any) -> Pool:
    norm, fc_norm = _norm(v.norm), _norm(v.fc_norm)
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
    return Head.assemble(HeadSpec(len(weight)), linear_from(weight, bias))
