"""Token by token is the same as all at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from coformer_compiler.model.decode import NEXT, PLACES, cache_shapes, lower_decoder
from coformer_compiler.model.transformer import Transformer
from coformer_compiler.stages.rounded_graph import opened_graph
from coformer_passes.runner import legalise
from coformer_targets import load_target, with_precision
from tests.compiler.tiny import random_model, tiny_decoder

LENGTH, WORDS = 9, 23


@pytest.fixture(scope="module")
def model() -> Transformer:
    return random_model(tiny_decoder(length=LENGTH, words=WORDS), seed=5)


def outputs(path: Path, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


@torch.no_grad()
def sent(model: Transformer, words: list[int]) -> np.ndarray:
    """What torch sends for a whole text."""
    text = torch.full((1, LENGTH), WORDS, dtype=torch.int32)
    text[0, : len(words)] = torch.tensor(words, dtype=torch.int32)
    return model.sent(text).numpy()


def feeds(words: list[int], first: int, size: int) -> dict[str, np.ndarray]:
    ids, places = np.full((1, size), WORDS, np.int32), np.full((1, size), LENGTH, np.int32)
    ids[0, : len(words)], places[0, : len(words)] = words, np.arange(first, first + len(words))
    return {"ids": ids, PLACES: places}


@pytest.mark.parametrize("chunk", [2, 4, 5])
def test_a_text_in_pieces(chunk: int, model: Transformer, tmp_path: Path) -> None:
    """A prompt of five words in pieces, then one word after the other to the end of the context."""
    words = [3, 1, 4, 1, 5, 9, 2, 6, 5]
    for name, tokens in (("prefill", chunk), ("step", 1)):
        ir.save(lower_decoder(model, name, tokens), tmp_path / f"{name}.onnx")
    caches = {name: np.zeros(shape, np.float32) for name, shape in cache_shapes(model).items()}
    assert set(caches) == {"keys_0", "values_0", "keys_1", "values_1"}
    for first in range(0, 5, chunk):
        part = words[first : min(first + chunk, 5)]
        found = outputs(tmp_path / "prefill.onnx", {**caches, **feeds(part, first, chunk)})
        caches = {name: found[name + NEXT] for name in caches}
    np.testing.assert_allclose(found["features"], sent(model, words[:5]), atol=1e-5)
    for place in range(5, LENGTH):
        found = outputs(tmp_path / "step.onnx", {**caches, **feeds(words[place : place + 1], place, 1)})
        caches = {name: found[name + NEXT] for name in caches}
        np.testing.assert_allclose(found["features"], sent(model, words[: place + 1]), atol=1e-5)


@pytest.mark.parametrize("place", [2047, 2049, 2055])
def test_places_that_halves_do_not_hold(place: int, tmp_path: Path) -> None:
    """Behind 2,048 half precision has every second number only, behind 4,096 every fourth: one row is written."""
    target = with_precision(load_target("jetson-orin-nano"), "float16")
    model = random_model(tiny_decoder(length=2100, words=WORDS), seed=5)
    random = np.random.default_rng(0)
    caches = {n: random.normal(size=s).astype(np.float32) for n, s in cache_shapes(model).items()}
    given = {**caches, "ids": np.array([[3]], np.int32), PLACES: np.array([[place]], np.int32)}
    ir.save(legalise(lower_decoder(model, "step", 1), target, [given]), tmp_path / "step.onnx")
    ir.save(lower_decoder(model, "step", 1), tmp_path / "plain.onnx")
    wanted = outputs(tmp_path / "plain.onnx", given)
    with opened_graph(tmp_path / "step.onnx", "float16") as graph:
        found = graph.run(given)
    np.testing.assert_allclose(found["features"], wanted["features"], atol=0.02)
    for name, before in caches.items():
        written = (np.abs(found[name + NEXT] - before) > 0.01).any((0, 1, 3))
        assert np.flatnonzero(written).tolist() == [place]


def test_padding_writes_nothing(model: Transformer, tmp_path: Path) -> None:
    ir.save(lower_decoder(model, "prefill", 4), tmp_path / "prefill.onnx")
    random = np.random.default_rng(0)
    caches = {n: random.normal(size=s).astype(np.float32) for n, s in cache_shapes(model).items()}
    found = outputs(tmp_path / "prefill.onnx", {**caches, **feeds([7, 8], 3, 4)})
    for name, before in caches.items():
        after = found[name + NEXT]
        rest = [place for place in range(LENGTH) if place not in (3, 4)]
        np.testing.assert_array_equal(after[:, :, rest], before[:, :, rest])
        assert (after[:, :, 3:5] != before[:, :, 3:5]).all()
