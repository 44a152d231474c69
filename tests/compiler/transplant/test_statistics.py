"""What one pass over the calibration set tells, against the same things computed directly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, fields
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from coformer_compiler.model.residual import Residual
from coformer_compiler.model.transformer import Transformer
from coformer_compiler.transplant.basis import plain_normed
from coformer_compiler.transplant.statistics import (
    Statistics,
    load_statistics,
    save_statistics,
    statistics_from_batches,
)
from tests.compiler.tiny import VARIANTS, random_inputs, random_model, tiny_spec

SAMPLES = 23
NAMES = ["class token", "distilled", "norm of the mean", "rms query norm", "stem norm"]


def batches(model: Transformer, batch: int = SAMPLES) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    pixels = random_inputs(model.spec, SAMPLES, seed=1)
    labels = torch.arange(SAMPLES) % model.spec.classes
    yield from zip(pixels.split(batch), labels.split(batch), strict=True)


def tensors(statistics: Statistics) -> list[torch.Tensor]:
    """All of them, whatever they are called."""
    found: list[torch.Tensor] = []
    for value in (getattr(statistics, field.name) for field in fields(statistics)):
        found += [value] if isinstance(value, torch.Tensor) else list(value or ())
    return found


@torch.no_grad()
def inputs_of_norms(model: Transformer) -> list[torch.Tensor]:
    """What enters each sub-block, and what enters the final norm, seen by hooks on the model's own forward pass."""
    seen: list[torch.Tensor] = []
    modules = [block.norm for block in model.residuals]
    assert model.pool.norm is not None
    hooks = [m.register_forward_pre_hook(lambda _, args: seen.append(args[0])) for m in [*modules, model.pool.norm]]
    ((pixels, _),) = batches(model)
    model(pixels)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("name", NAMES)
def test_moments_are_those_of_the_plainly_normed_stream(name: str) -> None:
    model = random_model(VARIANTS[name])
    statistics = statistics_from_batches(model, batches(model))
    norms = [*(block.norm for block in model.residuals), model.pool.norm]
    assert len(statistics.moments) == len(norms)
    for moment, norm, x in zip(statistics.moments, norms, inputs_of_norms(model), strict=True):
        rows = plain_normed(norm, x.double()).flatten(0, 1)
        torch.testing.assert_close(moment, rows.T @ rows / len(rows), atol=1e-5, rtol=1e-5)
    total = sum(moment.diagonal() for moment in statistics.moments)
    torch.testing.assert_close(statistics.channel_scores, (total,))


@torch.no_grad()
def test_stem_moment() -> None:
    model = random_model(VARIANTS["stem norm"])
    found = statistics_from_batches(model, batches(model)).stem_moment
    ((pixels, _),) = batches(model)
    rows = plain_normed(model.stem.norm, model.stem.embed(pixels).double()).flatten(0, 1)
    assert found is not None
    torch.testing.assert_close(found, rows.T @ rows / len(rows), atol=1e-5, rtol=1e-5)
    plain = random_model(VARIANTS["class token"])
    assert statistics_from_batches(plain, batches(plain)).stem_moment is None


@torch.no_grad()
def written_by(block: Residual, x: torch.Tensor, unit: int) -> torch.Tensor:
    """What one head or neuron alone adds to the stream."""
    alone = block.take([unit], range(x.shape[-1]))
    assert alone.branch.writer.bias is not None
    return alone(x) - x - alone.branch.writer.bias


@pytest.mark.parametrize("name", NAMES)
def test_activation_scores_are_the_spread_of_what_a_unit_writes(name: str) -> None:
    """The square root of the variance, summed over the stream's channels; the mean counts for nothing."""
    model = random_model(VARIANTS[name])
    statistics = statistics_from_batches(model, batches(model))
    assert len(statistics.scores) == len(model.residuals)
    for scores, block, x in zip(statistics.scores, model.residuals, inputs_of_norms(model), strict=False):
        assert scores.shape == (block.branch.units,)
        for unit, score in enumerate(scores):
            written = written_by(block, x, unit).double().flatten(0, 1)
            want = written.var(0, correction=0).sum().sqrt()
            assert float(score) == pytest.approx(float(want), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("name", ["class token", "rms query norm"])
@torch.no_grad()
def test_taylor_scores_are_the_slope_of_the_loss(name: str) -> None:
    """How fast each sample's loss moves with a gate on the unit, by finite differences in float64."""
    model = random_model(VARIANTS[name])
    statistics = statistics_from_batches(model, batches(model), "taylor")
    ((pixels, labels),) = batches(model)
    model.double()
    step = 1e-4
    for scores, block in zip(statistics.scores, model.residuals, strict=True):
        weight, want = block.branch.writer.weight, []
        for unit in range(block.branch.units):
            columns, losses = block.branch.writer_columns([unit]), []
            before = weight[:, columns].clone()
            for gate in (1 + step, 1 - step):
                weight[:, columns] = before * gate
                losses.append(F.cross_entropy(model(pixels), labels, reduction="none"))
            weight[:, columns] = before
            want.append(float(((losses[0] - losses[1]) / (2 * step)).abs().sum()))
        shares = torch.tensor(want, dtype=torch.float64) / sum(want)
        torch.testing.assert_close(scores / scores.sum(), shares, rtol=1e-3, atol=1e-5)


def test_taylor_leaves_the_model_as_it_was() -> None:
    model = random_model(tiny_spec())
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    statistics_from_batches(model, batches(model), "taylor")
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_frozen_model_will_do() -> None:
    model = random_model(tiny_spec())
    want = statistics_from_batches(model, batches(model), "taylor")
    model.requires_grad_(False)
    got = statistics_from_batches(model, batches(model), "taylor")
    assert all(torch.equal(a, b) for a, b in zip(tensors(got), tensors(want), strict=True))


def test_token_weights_are_mean_squared_gradients() -> None:
    """By autograd on a forward pass whose streams are leaves of their own."""
    model = random_model(VARIANTS["distilled"])
    statistics = statistics_from_batches(model, batches(model))
    ((pixels, labels),) = batches(model)
    for j, found in enumerate(statistics.token_weights):
        x = model.stem(pixels).detach()
        for block in model.residuals[:j]:
            x = block(x).detach()
        start = x.clone().requires_grad_()
        out = start
        for block in model.residuals[j:]:
            out = block(out)
        loss = F.cross_entropy(model.head(model.pool(out)), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, start)
        want = gradient.double().square().sum((0, 2))
        torch.testing.assert_close(found, want / want.mean(), rtol=1e-4, atol=1e-5)
    last = statistics.token_weights[-1]
    assert last.shape == (model.spec.stem.tokens,)
    assert float(last[2:].sum()) == pytest.approx(0), "behind the last attention only the prefix tokens count"


@pytest.mark.parametrize("importance", ["activation", "taylor"])
@pytest.mark.parametrize("batch", [1, 4, 10])
def test_the_size_of_batches_does_not_matter(batch: int, importance: str) -> None:
    model = random_model(VARIANTS["stem norm"])
    once = tensors(statistics_from_batches(model, batches(model), importance))
    pieces = tensors(statistics_from_batches(model, batches(model, batch), importance))
    for a, b in zip(once, pieces, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_the_same_twice() -> None:
    model = random_model(VARIANTS["stem norm"])
    once, again = (tensors(statistics_from_batches(model, batches(model, 7))) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


@pytest.mark.parametrize("name", ["class token", "stem norm"])
def test_to_disk_and_back(name: str, tmp_path: Path) -> None:
    model = random_model(tiny_spec(layers=6, stem_norm=name == "stem norm"))
    statistics = statistics_from_batches(model, batches(model))
    save_statistics(tmp_path / "a", statistics)
    loaded = load_statistics(tmp_path / "a")
    assert len(astuple(loaded)) == len(astuple(statistics))
    assert (loaded.stem_moment is None) == (statistics.stem_moment is None)
    assert all(torch.equal(a, b) for a, b in zip(tensors(loaded), tensors(statistics), strict=True))
    save_statistics(tmp_path / "b", loaded)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_every_block_is_let_go_behind_its_forward_and_its_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model, let_go = random_model(tiny_spec()), []
    monkeypatch.setattr(Transformer, "release", lambda _, part=None: let_go.append(part))
    statistics_from_batches(model, batches(model, 16))
    steps = list(model.steps)
    of_a_pass, of_a_gradient = steps, [*steps, *reversed(steps), None]
    of_the_scores = [block.branch for block in model.residuals]
    assert let_go == 2 * [*of_a_pass, *of_a_gradient] + of_the_scores  # of 16 samples, then of the other 7
