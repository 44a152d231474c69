"""Specs as JSON."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coformer_compiler.model.spec import (
    AttentionSpec,
    HeadSpec,
    MlpSpec,
    NormSpec,
    PatchStemSpec,
    PoolSpec,
    ResidualSpec,
    TokenStemSpec,
    TransformerSpec,
)
from coformer_compiler.model.spec_json import spec_from_json
from tests.compiler.tiny import VARIANTS, tiny_spec

SIZES = st.integers(1, 4096)
PAIRS = st.tuples(SIZES, SIZES)
NORMS = st.builds(NormSpec, SIZES, st.sampled_from(["layer", "rms"]), st.floats(1e-12, 1), st.booleans())
ATTENTIONS = st.builds(AttentionSpec, SIZES, SIZES, SIZES, SIZES, st.booleans(), st.booleans(), st.none() | NORMS)
MLPS = st.builds(
    MlpSpec,
    SIZES,
    SIZES,
    SIZES,
    st.sampled_from(["gelu", "gelu_tanh", "relu", "silu", "quick_gelu", "tanh"]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
PATCHES = st.builds(PatchStemSpec, PAIRS, PAIRS, SIZES, SIZES, SIZES, st.none() | NORMS, st.none() | SIZES)
TOKENS = st.builds(TokenStemSpec, SIZES, SIZES, SIZES, SIZES, st.sampled_from([1, 2]), st.none() | NORMS)
BLOCKS = st.builds(ResidualSpec, SIZES, st.none() | NORMS, ATTENTIONS | MLPS, st.booleans(), st.booleans())
HEADS = st.builds(HeadSpec, SIZES, st.none() | SIZES, st.sampled_from(["tanh", "gelu"]), st.booleans())
SPECS = st.builds(
    TransformerSpec,
    PATCHES | TOKENS,
    st.lists(BLOCKS, max_size=4).map(tuple),
    st.builds(PoolSpec, st.sampled_from(["prefix", "mean"]), SIZES, st.none() | NORMS, st.booleans()),
    HEADS,
)


@given(SPECS)
def test_round_trip(spec: TransformerSpec) -> None:
    assert spec_from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize(
    ("path", "key"), [((), "head"), (("stem",), "norm"), (("pool",), "norm"), (("blocks", 0), "layer")]
)
def test_a_missing_key_is_an_error(path: tuple[str | int, ...], key: str) -> None:
    data = json.loads(json.dumps(tiny_spec().to_json()))
    inner = data
    for step in path:
        inner = inner[step]
    del inner[key]
    with pytest.raises(KeyError, match=key):
        spec_from_json(data)


def test_an_unknown_key_is_an_error() -> None:
    data = json.loads(json.dumps(tiny_spec().to_json()))
    data["stem"]["stride"] = 2
    with pytest.raises(TypeError, match="stride"):
        spec_from_json(data)


def test_derived_sizes() -> None:
    spec = VARIANTS["stem norm and mix"]
    assert (spec.stem.grid, spec.stem.tokens, spec.stem.out, spec.embed) == ((2, 3), 7, 10, 10)
    assert spec.layers == (0, 1)
    assert VARIANTS["distilled"].features == 2 * VARIANTS["distilled"].embed
    assert VARIANTS["mean with prefix"].features == VARIANTS["mean with prefix"].embed
