"""A text is read once, and the decoder's text is then the same token by token as all at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from coformer_compiler.model.decode import NEXT, PLACES, cache_shapes, lower_decoder, lower_source, source_shapes
from coformer_compiler.model.transformer import Transformer
from coformer_passes.runner import legalise
from coformer_targets import load_target
from tests.compiler.model.test_decode import outputs
from tests.compiler.tiny import random_inputs, random_model, tiny_seq2seq

READ, WRITTEN, PAD = 9, 6, 23


@pytest.fixture(scope="module")
def model() -> Transformer:
    return random_model(tiny_seq2seq(), seed=5)


def feeds(words: np.ndarray, first: int, size: int) -> dict[str, np.ndarray]:
    ids, places = np.full((1, size), PAD, np.int32), np.full((1, size), WRITTEN, np.int32)
    ids[0, : len(words)], places[0, : len(words)] = words, np.arange(first, first + len(words))
    return {"ids": ids, PLACES: places}


@torch.no_grad()
def sent(model: Transformer, inputs: torch.Tensor, tokens: int) -> np.ndarray:
    """What torch sends when so many tokens are written."""
    cut = inputs.clone()
    cut[:, READ + tokens :] = PAD
    return model.sent(cut).numpy()


@pytest.mark.parametrize("chunk", [1, 2, 4])
def test_a_text_in_pieces(chunk: int, model: Transformer, tmp_path: Path) -> None:
    ir.save(lower_source(model, "source"), tmp_path / "source.onnx")
    ir.save(lower_decoder(model, "step", chunk), tmp_path / "step.onnx")
    inputs = random_inputs(model.spec, 8, seed=3)
    inputs[:, READ:] = torch.randint(0, PAD, (8, WRITTEN), generator=torch.Generator().manual_seed(1))
    assert (inputs[:, :READ] == 0).any(), "some of the texts that are read have padding"
    for case in inputs.split(1):
        known = outputs(tmp_path / "source.onnx", {"ids": case[:, :READ].numpy()})
        assert {name: array.shape for name, array in known.items()} == source_shapes(model)
        caches = {name: np.zeros(shape, np.float32) for name, shape in cache_shapes(model).items()}
        assert set(caches) == {"keys_2", "values_2", "keys_3", "values_3"}
        for first in range(0, WRITTEN, chunk):
            words = case[0, READ + first : READ + min(first + chunk, WRITTEN)].numpy()
            found = outputs(tmp_path / "step.onnx", {**caches, **known, **feeds(words, first, chunk)})
            caches = {name: found[name + NEXT] for name in caches}
            np.testing.assert_allclose(found["features"], sent(model, case, first + len(words)), atol=1e-5)


@torch.no_grad()
def test_padding_of_either_text_changes_nothing(model: Transformer) -> None:
    """What stands in its place, in torch: other words there are other texts, the padding word is none."""
    inputs = random_inputs(model.spec, 6, seed=4)
    answers, mask = model(inputs), model.feature_mask(inputs)
    assert mask is not None
    assert torch.equal(mask, inputs[:, READ:] != PAD) and mask[:, 0].all()
    shorter = inputs.clone()
    shorter[:, READ + 2 :] = PAD
    torch.testing.assert_close(model(shorter)[:, :2], answers[:, :2], atol=1e-5, rtol=1e-5)
    longer = inputs.clone()
    longer[:, READ - 1] = 7
    assert (model(longer) - answers)[:, 0].abs().amax(-1).min() > 1e-4, "what is read counts from the first token on"


@pytest.mark.slow
@pytest.mark.interpreters
@torch.no_grad()
def test_graphs_for_a_jetson_nano_in_old_onnx_runtime(model: Transformer, tmp_path: Path) -> None:
    """A text is read and three words are written in ONNX Runtime 1.10 under Python 3.6."""
    from tests.passes.old_onnx import old_outputs, old_python

    old_python()
    target, case = load_target("jetson-nano"), random_inputs(model.spec, 1, seed=6)
    case[:, READ:] = torch.tensor([[0, 4, 9, PAD, PAD, PAD]])
    read = {"ids": case[:, :READ].numpy()}
    caches = {name: np.zeros(shape, np.float32) for name, shape in cache_shapes(model).items()}
    known = {name: np.zeros(shape, np.float32) for name, shape in source_shapes(model).items()}
    first = {**caches, **known, **feeds(case[0, READ : READ + 1].numpy(), 0, 1)}
    for name, graph, golden in (
        ("source", lower_source(model, "s"), read),
        ("step", lower_decoder(model, "t", 1), first),
    ):
        ir.save(legalise(graph, target, [golden]), tmp_path / f"{name}.onnx")
    known = old_outputs(tmp_path / "source.onnx", **read)
    for place in range(3):
        words = case[0, READ + place : READ + place + 1].numpy()
        found = old_outputs(tmp_path / "step.onnx", **caches, **known, **feeds(words, place, 1))
        caches = {name: found[name + NEXT] for name in caches}
        np.testing.assert_allclose(found["features"], sent(model, case, place + 1), atol=1e-4)
