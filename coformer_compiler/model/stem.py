"""Stems: what turns the one tensor that travels into tokens.

Each has `mask` (which tokens are no padding; None where there is none), `forward`, `embed` (before norm and mix),
`take`, `project`, `with_norm`, `lower` (tokens, and padding where there is some) and `cost`.
"""

from __future__ import annotations

from coformer_compiler.model.patch_stem import PatchStem
from coformer_compiler.model.spec import PatchStemSpec, StemSpec
from coformer_compiler.model.token_stem import TokenStem

Stem = PatchStem | TokenStem


def stem_from_spec(spec: StemSpec) -> Stem:
    """A stem of fresh weights."""
    return PatchStem(spec) if isinstance(spec, PatchStemSpec) else TokenStem(spec)
