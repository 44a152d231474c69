"""Parts that timm's families share, in canonical form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from coformer_compiler.frontends import ModelSource
from coformer_compiler.model.attention import Attention
from coformer_compiler.model.head import Head
from coformer_compiler.model.linear import linear_from
from coformer_compiler.model.mlp import Mlp
from coformer_compiler.model.norm import Norm
from coformer_compiler.model.patch_stem import PatchStem
from coformer_compiler.model.residual import Residual
from coformer_compiler.model.spec import (
    Activation,
    AttentionSpec,
    HeadSpec,
    MlpSpec,
    NormKind,
    NormSpec,
    PatchStemSpec,
    WindowSpec,
)
from coformer_runtime.errors import CoformerError

IDENTITY, NORMS = ("Identity",), ("LayerNorm", "RmsNorm", "LayerNormFp32", "LayerNormAct")
ACTIVATIONS: dict[str, Activation] = {
    "GELU": "gelu",
    "GELUTanh": "gelu_tanh",
    "ReLU": "relu",
    "SiLU": "silu",
    "QuickGELU": "quick_gelu",
}


@dataclass(frozen=True)
class Part:
    """A place in a timm block and the class names that can be imported from there."""

    path: str
    allowed: tuple[str, ...]


def foreign(name: str, what: str, mend: str) -> CoformerError:
    """The error for a model with something that the canonical transformer has no block for."""
    return CoformerError(f"cannot be imported: {what}", f"model '{name}'", mend)


def refuse_foreign_block(name: str, where: str, block: nn.Module, kind: str, parts: tuple[Part, ...]) -> None:
    """Check the class of a block and of its parts.

    Raises:
        CoformerError: naming the first one that is not allowed.
    """
    if type(block).__name__ != kind:
        raise foreign(name, f"{where} is a {type(block).__name__}", "choose a model of plain blocks")
    for part in parts:
        found = type(block.get_submodule(part.path)).__name__
        if found not in part.allowed:
            raise foreign(name, f"{where}.{part.path} is a {found}", f"it can be {', '.join(part.allowed)}")


def refuse_foreign_stem(name: str, patch_embed: Any, norms: tuple[str, ...] = IDENTITY) -> None:
    """Check that patches come from a plain convolution of fixed size, behind which is one of `norms`."""
    if type(patch_embed.norm).__name__ not in norms or not isinstance(patch_embed.proj, nn.Conv2d):
        raise foreign(name, "its patch embedding is not a plain convolution of fixed size", "choose another model")


def patch_stem(
    patch_embed: Any,
    prefix: torch.Tensor,
    positions: torch.Tensor | None,
    norm: Norm | None,
    model: Any,
    source: ModelSource,
) -> PatchStem:
    """The stem of a patch embedding.

    Args:
        patch_embed: timm's.
        prefix: `(prefix, embed)`, positions added in.
        positions: of the patches, `(patches, embed)`; None where the model has none.
        norm: over the tokens, or None.
        model: the whole model, for its normalisation.
        source: overrides that.
    """
    proj, channels = patch_embed.proj, patch_embed.proj.in_channels
    spec = PatchStemSpec(
        tuple(patch_embed.img_size),
        tuple(patch_embed.patch_size),
        channels,
        proj.out_channels,
        len(prefix),
        None if norm is None else norm.spec,
        positions=positions is not None,
    )
    stem = PatchStem(spec)
    stem.norm = norm
    stem.patches.weight.copy_(proj.weight)
    assert stem.patches.bias is not None
    stem.patches.bias.copy_(torch.zeros(proj.out_channels) if proj.bias is None else proj.bias)
    stem.prefix.copy_(prefix)
    if stem.positions is not None and positions is not None:
        stem.positions.copy_(positions)
    stem.mean.copy_(_per_channel(source.mean or model.pretrained_cfg["mean"], channels) * 255)
    stem.std.copy_(_per_channel(source.std or model.pretrained_cfg["std"], channels) * 255)
    return stem


def _per_channel(numbers: tuple[float, ...], channels: int) -> torch.Tensor:
    values = torch.tensor(numbers, dtype=torch.float64)
    if len(values) == channels:
        return values
    # Grey images under a model that was configured for three colours: the colours' average.
    return values.mean().expand(channels)


def attention_block(
    layer: int,
    norm: Norm,
    reader: nn.Linear,
    writer: nn.Linear,
    heads: int,
    *,
    query_norm: Norm | None = None,
    key_norm: Norm | None = None,
    score_bias: torch.Tensor | None = None,
    window: WindowSpec | None = None,
) -> Residual:
    """A pre-norm attention sub-block of finished parts; `score_bias` is `(heads, tokens, tokens)`."""
    spec = AttentionSpec(
        reader.in_features,
        heads,
        writer.in_features // heads,
        writer.out_features,
        reader.bias is not None,
        True,
        None if query_norm is None else query_norm.spec,
        None if score_bias is None else score_bias.shape[-1],
        window,
    )
    with torch.device("meta"):
        branch = Attention(spec)
    branch.reader, branch.writer = reader, writer
    branch.query_norm, branch.key_norm = query_norm, key_norm
    if score_bias is not None:
        branch.score_bias = nn.Parameter(score_bias.detach().clone())
    return Residual.assemble(layer, norm, branch)


def mlp_block(layer: int, norm: Norm, reader: nn.Linear, writer: nn.Linear, act: nn.Module) -> Residual:
    """A pre-norm MLP sub-block of finished parts."""
    spec = MlpSpec(
        reader.in_features, reader.out_features, writer.out_features, activation_of(act), reader.bias is not None
    )
    with torch.device("meta"):
        branch = Mlp(spec)
    branch.reader, branch.writer = reader, writer
    return Residual.assemble(layer, norm, branch)


def linear_head(weight: torch.Tensor, bias: torch.Tensor) -> Head:
    """A classifier of one linear, `weight` `(classes, features)`."""
    return Head.assemble(HeadSpec(len(weight)), linear_from(weight, bias))


def scaled(linear: nn.Linear, gamma: torch.Tensor | None) -> nn.Linear:
    """`linear` with LayerScale's factor per output folded in; always with a bias, zero where there was none."""
    bias = torch.zeros(linear.out_features) if linear.bias is None else linear.bias
    if gamma is None:
        return linear_from(linear.weight, bias)
    return linear_from(linear.weight * gamma[:, None], bias * gamma)


def activation_of(act: nn.Module) -> Activation:
    """The activation of one of the classes in `ACTIVATIONS`."""
    kind = ACTIVATIONS[type(act).__name__]
    return "gelu_tanh" if getattr(act, "approximate", "none") == "tanh" else kind


def norm_or_none(module: Any) -> Norm | None:
    """The norm of one of the classes in `NORMS`; None for an identity."""
    return None if isinstance(module, nn.Identity) else norm_of(module)


def norm_of(module: Any) -> Norm:
    """The norm of one of the classes in `NORMS`."""
    kind: NormKind = "rms" if type(module).__name__ == "RmsNorm" else "layer"
    made = Norm(NormSpec(int(module.normalized_shape[0]), kind, module.eps, module.weight is not None))
    if made.weight is not None:
        made.weight.copy_(module.weight)
    if made.bias is not None and module.bias is not None:
        made.bias.copy_(module.bias)
    return made
