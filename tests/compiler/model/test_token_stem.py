"""The token stem against tables read by hand, and padding that nobody sees."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from coformer_compiler.model.spec import AttentionSpec, ResidualSpec, TokenStemSpec
from coformer_compiler.model.token_stem import TokenStem
from coformer_compiler.model.transformer import Transformer
from tests.compiler.tiny import VARIANTS, random_inputs, random_model

TEXTS = [name for name, spec in VARIANTS.items() if isinstance(spec.stem, TokenStemSpec)]


def stem_of(name: str) -> TokenStem:
    stem = random_model(VARIANTS[name]).stem
    assert isinstance(stem, TokenStem)
    return stem


@torch.no_grad()
def test_tokens_are_rows_of_the_tables() -> None:
    stem = stem_of("text, pairs")
    assert stem.types is not None
    ids = random_inputs(VARIANTS["text, pairs"], 3)
    got = stem(ids)
    for sample in range(3):
        for place in range(stem.spec.length):
            word, kind = (int(ids[sample, row, place]) for row in (0, 1))
            want = stem.words[word] + stem.positions[place] + stem.types[kind]
            torch.testing.assert_close(got[sample, place], want)


def test_the_input_says_what_travels() -> None:
    single, pair = (VARIANTS[name].stem.input for name in ("text, mean", "text, pairs"))
    assert (single.name, single.dtype, single.shape) == ("ids", "int32", (9,))
    assert pair.shape == (2, 9)


@pytest.mark.parametrize("name", [name for name in TEXTS if VARIANTS[name].bridge is None])
@torch.no_grad()
def test_padding_changes_nothing(name: str) -> None:
    """Longer positions behind the text, filled with the padding word: the same answer."""
    model = random_model(VARIANTS[name])
    stem = model.stem
    assert isinstance(stem, TokenStem)
    ids = random_inputs(model.spec, 4)
    longer = replace(
        model.spec,
        stem=replace(stem.spec, length=stem.spec.length + 5),
        blocks=tuple(_with_room(block, 5) for block in model.spec.residuals),
    )
    other = Transformer(longer).eval()
    state = model.state_dict()
    for key, tensor in state.items():
        if key == "stem.positions":
            state[key] = torch.cat([tensor, torch.randn(5, stem.spec.embed)])
        elif key.endswith("score_bias"):
            state[key] = torch.nn.functional.pad(tensor, (0, 5, 0, 5), value=3.0)
    other.load_state_dict(state)
    padded = torch.nn.functional.pad(ids, (0, 5), value=stem.spec.pad)
    torch.testing.assert_close(other.sent(padded), model.sent(ids), atol=1e-5, rtol=1e-5)


def _with_room(block: ResidualSpec, tokens: int) -> ResidualSpec:
    branch = block.branch
    if isinstance(branch, AttentionSpec) and branch.score_bias is not None:
        return replace(block, branch=replace(branch, score_bias=branch.score_bias + tokens))
    return block


@pytest.mark.parametrize("name", TEXTS)
@torch.no_grad()
def test_the_length_of_a_text_does_change_something(name: str) -> None:
    model = random_model(VARIANTS[name])
    ids = random_inputs(model.spec, 4)
    words = ids if ids.ndim == 2 else ids[:, 0]
    words[:, 1] = 0
    assert (model(ids) - model(random_inputs(model.spec, 4))).abs().max() > 1e-3
