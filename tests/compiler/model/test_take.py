"""Index slicing of whole models: it is indexing, it is associative, and keeping everything changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cache
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coformer_compiler.model.bridge import Bridge
from coformer_compiler.model.merge import Merge
from coformer_compiler.model.spec import AttentionSpec, MlpSpec, PatchStemSpec
from coformer_compiler.model.transformer import Selection, Transformer
from tests.compiler.tiny import VARIANTS, random_inputs, random_model

TAKEABLE = [
    name
    for name, spec in VARIANTS.items()
    if not (isinstance(spec.stem, PatchStemSpec) and spec.stem.mix) and not spec.residuals[0].shortcut
]
NAMES = st.sampled_from(TAKEABLE)
RANDOMS = st.integers(0, 2**32 - 1).map(Random)


@cache
def model_of(name: str) -> Transformer:
    return random_model(VARIANTS[name], seed=5)


def units_of(model: Transformer, kind: str) -> dict[int, int]:
    return {block.layer: block.branch.units for block in model.residuals if block.kind == kind}


def everything(model: Transformer) -> Selection:
    return selection_by(model, lambda count: tuple(range(count)), model.spec.layers)


def some_selection(model: Transformer, random: Random) -> Selection:
    """Some of everything, in any order; some layers dropped."""
    layers = random.sample(model.spec.layers, random.randint(1, len(model.spec.layers)))
    return selection_by(model, lambda count: tuple(random.sample(range(count), random.randint(1, count))), layers)


def shuffled_selection(model: Transformer, random: Random) -> Selection:
    """All of everything, in any order."""
    return selection_by(model, lambda count: tuple(random.sample(range(count), count)), model.spec.layers)


def selection_by(model: Transformer, choose: Callable[[int], tuple[int, ...]], layers: Collection[int]) -> Selection:
    heads, neurons, cross = (
        {layer: choose(units) for layer, units in units_of(model, kind).items() if layer in layers}
        for kind in ("attention", "mlp", "cross")
    )
    return Selection(tuple(choose(embed) for embed in model.spec.embeds), heads, neurons, cross)


def composed(first: Selection, second: Selection) -> Selection:
    def chosen(outer: tuple[int, ...], inner: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(outer[i] for i in inner)

    return Selection(
        tuple(chosen(outer, inner) for outer, inner in zip(first.channels, second.channels, strict=True)),
        {layer: chosen(first.heads[layer], kept) for layer, kept in second.heads.items()},
        {layer: chosen(first.neurons[layer], kept) for layer, kept in second.neurons.items()},
        {layer: chosen(first.cross[layer], kept) for layer, kept in second.cross.items()},
    )


def sliced_by_hand(model: Transformer, selection: Selection) -> list[torch.Tensor]:
    """The tensors that the slice should hold, in the order of its state dict, named after the paper's axes."""
    state, stages, wanted = model.state_dict(), model.spec.stages, []
    for name, tensor in state.items():
        parts = name.split(".")
        stage = stages[int(parts[1])] if parts[0] == "blocks" else 0 if parts[0] == "stem" else stages[-1]
        channels = list(selection.channels[stage])
        if parts[0] == "blocks":
            block = model.steps[int(parts[1])]
            if isinstance(block, Bridge):
                following = list(selection.channels[stage + 1])
                wanted.append(tensor[channels] if parts[2] == "norm" else tensor[:, following])
                continue
            if isinstance(block, Merge):
                columns = [part * model.spec.embeds[stage] + channel for part in range(4) for channel in channels]
                following = list(selection.channels[stage + 1])
                wanted.append(tensor[columns] if parts[2] == "norm" else tensor[following][:, columns])
                continue
            kept = selection.units(block.kind, block.layer)
            if kept is None:
                continue
            units = torch.tensor(kept)
            if not isinstance(block.branch.spec, MlpSpec):
                heads, dim = block.branch.spec.heads, block.branch.spec.head_dim
                units = (units[:, None] * dim + torch.arange(dim)).flatten()
                parts_of_reader = 3 if isinstance(block.branch.spec, AttentionSpec) else 1
                rows = torch.cat([part * heads * dim + units for part in range(parts_of_reader)])
            else:
                rows = torch.cat([part * block.branch.units + units for part in range(1 + block.branch.spec.gated)])
            if name.endswith("score_bias"):
                tensor = tensor[list(kept)]
            elif parts[2] == "norm" or name.endswith("writer.bias"):
                tensor = tensor[channels]
            elif name.endswith("memory_reader.weight"):
                both = torch.cat([part * heads * dim + units for part in range(2)])
                tensor = tensor[both][:, list(selection.channels[stage - 1])]
            elif name.endswith("reader.weight"):
                tensor = tensor[rows][:, channels]
            elif name.endswith("reader.bias"):
                tensor = tensor[rows]
            elif name.endswith("writer.weight"):
                tensor = tensor[channels][:, units]
        elif name == (f"head.{'linear' if model.head.pooler is None else 'pooler'}.weight"):
            tensor = torch.cat([part[:, channels] for part in tensor.split(model.spec.embed, 1)], 1)
        elif parts[0] == "stem" and model.stem.mix is not None:
            tensor = tensor[channels] if parts[1] == "mix" else tensor
        elif name in ("stem.prefix", "stem.positions", "stem.words", "stem.types"):
            tensor = tensor[:, channels]
        elif parts[0] != "head" and name not in ("stem.mean", "stem.std"):
            tensor = tensor[channels]
        wanted.append(tensor)
    return wanted


@given(name=NAMES, random=RANDOMS)
@torch.no_grad()
def test_take_is_indexing(name: str, random: Random) -> None:
    model = model_of(name)
    selection = some_selection(model, random)
    taken = model.take(selection)
    got, wanted = list(taken.state_dict().values()), sliced_by_hand(model, selection)
    assert len(got) == len(wanted)
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))
    assert Transformer(taken.spec).state_dict().keys() == taken.state_dict().keys()


@given(name=NAMES, random=RANDOMS)
@torch.no_grad()
def test_take_is_associative(name: str, random: Random) -> None:
    model = model_of(name)
    first = some_selection(model, random)
    once = model.take(first)
    second = some_selection(once, random)
    twice, direct = once.take(second), model.take(composed(first, second))
    assert twice.spec == direct.spec
    assert twice.state_dict().keys() == direct.state_dict().keys()
    for (key, a), b in zip(twice.state_dict().items(), direct.state_dict().values(), strict=True):
        assert torch.equal(a, b), key


@pytest.mark.parametrize("name", TAKEABLE)
@torch.no_grad()
def test_full_take_is_the_model(name: str) -> None:
    model = model_of(name)
    taken, pixels = (
        model.take(everything(model)),
        random_inputs(model.spec, 4),
    )
    assert taken.spec == model.spec
    torch.testing.assert_close(taken(pixels), model(pixels), atol=1e-5, rtol=0)


@given(name=NAMES, random=RANDOMS)
@torch.no_grad()
def test_order_does_not_matter(name: str, random: Random) -> None:
    """All channels, heads and neurons in another order: the same function."""
    model = model_of(name)
    pixels = random_inputs(model.spec, 2)
    taken = model.take(shuffled_selection(model, random))
    torch.testing.assert_close(taken(pixels), model(pixels), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_slices_own_their_weights() -> None:
    model = random_model(VARIANTS["class token"])
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    for parameter in model.take(everything(model)).parameters():
        parameter.zero_()
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
