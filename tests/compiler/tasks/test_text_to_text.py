"""Texts as answers: padding has no part in losses and metrics, and an exact match is one of greedy generation."""

from __future__ import annotations

import pytest
import torch

from coformer_compiler.booster.losses import Targets, distillation_loss, hard_loss
from coformer_compiler.booster.options import BoosterOptions
from coformer_compiler.tasks import IGNORED, TEXT_TO_TEXT
from tests.compiler.tiny import random_inputs, random_model, tiny_seq2seq

READ, WRITTEN, WORDS, END = 9, 6, 23, 1


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_losses_are_means_over_the_tokens_that_count() -> None:
    answers, labels = random(2, 4, 7), torch.tensor([[1, 2, IGNORED, IGNORED], [3, 4, 5, 6]])
    whole = torch.nn.functional.cross_entropy(answers[1], labels[1])
    part = torch.nn.functional.cross_entropy(answers[0, :2], labels[0, :2])
    torch.testing.assert_close(TEXT_TO_TEXT.loss(answers, labels), torch.stack([part, whole]))


@pytest.mark.parametrize("soft", [0.0, 0.5, 1.0])
def test_padding_teaches_nothing(soft: float) -> None:
    """Whatever teacher and student say there."""
    answers, teacher, labels = random(1, 4, 7), 2 * random(1, 4, 7).flip(0), torch.tensor([[1, 2, IGNORED, IGNORED]])
    options = BoosterOptions(soft_targets=soft)

    def loss(answers: torch.Tensor, teacher: torch.Tensor) -> float:
        return float(distillation_loss(answers, Targets(labels, teacher, TEXT_TO_TEXT), options))

    before = loss(answers, teacher)
    others = torch.cat([answers[:, :2], 9 * random(1, 2, 7)], 1), torch.cat([teacher[:, :2], -9 * random(1, 2, 7)], 1)
    assert loss(*others) == pytest.approx(before)
    assert loss(others[0].flip(1), teacher) != pytest.approx(before)
    assert torch.isfinite(hard_loss(answers, Targets(labels, teacher, TEXT_TO_TEXT))).all()


def test_metrics_by_hand() -> None:
    labels = torch.tensor([[2, 1, IGNORED], [2, 3, 1]])
    answers = torch.nn.functional.one_hot(torch.tensor([[2, 1, 0], [2, 2, 1]]), 4).float() * 5
    told = TEXT_TO_TEXT.kept(answers, labels)
    exact, tokens, perplexity = (metric.measure(told, labels) for metric in TEXT_TO_TEXT.metrics)
    assert exact == 0.5 and tokens == pytest.approx(4 / 5)
    right, wrong = (torch.nn.functional.cross_entropy(answers[:1, 0], torch.tensor([n])) for n in (2, 0))
    assert perplexity == pytest.approx(float(((4 * right + wrong) / 5).exp()))


@torch.no_grad()
def greedy(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What a model writes, token by token, as inputs and as labels."""
    model, inputs = random_model(tiny_seq2seq(), seed=2), inputs.clone()
    labels = torch.full((len(inputs), WRITTEN), IGNORED)
    inputs[:, READ + 1 :] = WORDS
    for row in range(len(inputs)):
        for place in range(WRITTEN):
            labels[row, place] = int(model(inputs[row : row + 1])[0, place].argmax())
            if int(labels[row, place]) == END or place + 1 == WRITTEN:
                break
            inputs[row, READ + place + 1] = labels[row, place]
    return inputs, labels


@torch.no_grad()
def test_an_exact_match_is_one_of_greedy_generation() -> None:
    """A text that greedy generation writes matches under teacher forcing; with any other token it does not."""
    model = random_model(tiny_seq2seq(), seed=2)
    inputs, labels = greedy(random_inputs(model.spec, 12, seed=8))
    told = TEXT_TO_TEXT.kept(model(inputs), labels)
    assert TEXT_TO_TEXT.score.measure(told, labels) == 1
    for place in range(WRITTEN):
        other, forced = labels.clone(), inputs.clone()
        changed = labels[:, place] != IGNORED
        other[changed, place] = (labels[changed, place] + 1) % WORDS
        if place + 1 < WRITTEN:
            follows = changed & (labels[:, place + 1] != IGNORED)
            forced[follows, READ + place + 1] = other[follows, place].int()
        told = TEXT_TO_TEXT.kept(model(forced), other)
        assert TEXT_TO_TEXT.score.measure(told[changed], other[changed]) == 0
