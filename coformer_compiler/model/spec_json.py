"""Specs back from the plain dicts that their JSON holds."""

from __future__ import annotations

from typing import Any

from coformer_compiler.model.spec import (
    AttentionSpec,
    BranchSpec,
    BridgeSpec,
    CrossAttentionSpec,
    HeadSpec,
    MergeSpec,
    MlpSpec,
    NormSpec,
    PatchStemSpec,
    PoolSpec,
    ResidualSpec,
    StemSpec,
    TokenStemSpec,
    TransformerSpec,
    WindowSpec,
)


def spec_from_json(data: dict[str, Any]) -> TransformerSpec:
    """The inverse of `TransformerSpec.to_json`; raises KeyError or TypeError on anything else."""
    pool = dict(data["pool"])
    pool["norm"] = _norm(pool["norm"])
    blocks = tuple(_block(block) for block in data["blocks"])
    return TransformerSpec(_stem(data["stem"]), blocks, PoolSpec(**pool), HeadSpec(**data["head"]))


def _stem(data: dict[str, Any]) -> StemSpec:
    stem = {**data, "norm": _norm(data["norm"])}
    if "vocabulary" in stem:
        return TokenStemSpec(**stem)
    for key in ("image_size", "patch_size"):
        stem[key] = tuple(stem[key])
    return PatchStemSpec(**stem)


def _norm(data: dict[str, Any] | None) -> NormSpec | None:
    return None if data is None else NormSpec(**data)


def _window(data: dict[str, Any] | None) -> WindowSpec | None:
    return None if data is None else WindowSpec(**{key: tuple(numbers) for key, numbers in data.items()})


def _block(data: dict[str, Any]) -> ResidualSpec | MergeSpec | BridgeSpec:
    if "stem" in data:
        return BridgeSpec(NormSpec(**data["norm"]), TokenStemSpec(**data["stem"]), data["start"])
    if "branch" not in data:
        return MergeSpec(**{**data, "grid": tuple(data["grid"]), "norm": NormSpec(**data["norm"])})
    branch = dict(data["branch"])
    made: BranchSpec
    if "memory" in branch:
        made = CrossAttentionSpec(**branch)
    elif "heads" in branch:
        branch["query_norm"], branch["window"] = _norm(branch["query_norm"]), _window(branch["window"])
        made = AttentionSpec(**branch)
    else:
        made = MlpSpec(**branch)
    return ResidualSpec(data["layer"], _norm(data["norm"]), made, data["shortcut"], data["post_norm"])
