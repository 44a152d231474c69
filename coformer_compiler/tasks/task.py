"""Tasks: how an answer is judged, and how a student learns it from labels and from the teacher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from coformer_compiler.tasks.metrics import (
    ACCURACY,
    COSINE,
    EXACT_MATCH,
    IGNORED,
    NEXT_TOKEN,
    PEARSON,
    PERPLEXITY,
    RETRIEVAL,
    SPEARMAN,
    TOKEN_ACCURACY,
    TOKEN_PERPLEXITY,
    Metric,
)

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Answers `(batch, outputs)` and labels `(batch, …)` to losses per sample `(batch,)`."""


@dataclass(frozen=True)
class Task:
    """One kind of answer.

    Attributes:
        name: of the kind.
        loss: against labels.
        decision: (the teacher's answers, labels): these answers as labels, where the labels count.
        soft_loss: against the teacher's answers themselves, at a temperature, where the labels count: (answers,
            teacher, temperature, labels).
        probe: what the importance of tokens and units is taken from: something of each sample that moves with the
            answer; a loss that the teacher has brought to zero does not.
        metrics: the first one is the score that choices are made by.
        labels_from_teacher: the labels are the teacher's answers; the data has none.
        kept: what the metrics need of answers, which is all that is kept of a split: (answers, labels).
    """

    name: str
    loss: Loss
    decision: Loss
    soft_loss: Callable[[torch.Tensor, torch.Tensor, float, torch.Tensor], torch.Tensor]
    probe: Loss
    metrics: tuple[Metric, ...]
    labels_from_teacher: bool = False
    kept: Loss = lambda answers, labels: answers

    def scored(self, answers: torch.Tensor, labels: torch.Tensor) -> float:
        """The score of the answers to a whole split."""
        return self.score.measure(self.kept(answers, labels), labels)

    @property
    def score(self) -> Metric:
        """The metric that choices are made by."""
        return self.metrics[0]


def _cross_entropy(answers: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(answers, labels, reduction="none")


def _divergence(answers: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """KL divergence of the student from the teacher.

    Times the squared temperature, so that gradients keep their size when the temperature changes.
    """
    student, wanted = (F.log_softmax(each / temperature, -1) for each in (answers, teacher))
    return F.kl_div(student, wanted, reduction="none", log_target=True).sum(-1) * temperature**2


def _squared_error(answers: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return (answers[:, 0] - labels.to(answers.dtype)).square()


def _distance(answers: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return 1 - F.cosine_similarity(answers, labels.to(answers.dtype), dim=-1)


def _likeness_to_another(answers: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cosine_similarity(answers, labels.to(answers.dtype).roll(1, 0), dim=-1)


def _token_losses(answers: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(answers.transpose(1, 2), _last(answers, labels), reduction="none")


def _told(answers: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    right = answers.argmax(-1) == _last(answers, labels)
    return torch.stack([_token_losses(answers, labels), right.to(answers.dtype)], -1)


def _text_loss(answers: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean over the tokens of each text; those that are none have no loss."""
    return _mean_counted(_token_losses(answers, labels), labels)


def _mean_counted(losses: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    counted = labels != IGNORED
    return (losses * counted).sum(1) / counted.sum(1).clamp(min=1)


def _last(answers: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The labels of the tokens that there are answers for: a graph answers for the last one alone."""
    return labels[:, -answers.shape[1] :]


CLASSIFICATION = Task(
    "classification",
    _cross_entropy,
    lambda teacher, _: teacher.argmax(-1),
    lambda answers, teacher, temperature, _: _divergence(answers, teacher, temperature),
    _cross_entropy,
    (ACCURACY,),
)
"""Labels int64 `(samples,)`."""

REGRESSION = Task(
    "regression",
    _squared_error,
    lambda teacher, _: teacher[:, 0],
    lambda answers, teacher, *_: _squared_error(answers, teacher[:, 0]),
    _squared_error,
    (PEARSON, SPEARMAN),
)
"""One output; labels float32 `(samples,)`."""

EMBEDDING = Task(
    "embedding",
    _distance,
    lambda teacher, _: teacher,
    lambda answers, teacher, *_: _distance(answers, teacher),
    _likeness_to_another,
    (COSINE, RETRIEVAL),
    labels_from_teacher=True,
)
"""Vectors; labels float32 `(samples, outputs)`, the teacher's."""

LANGUAGE = Task(
    "language",
    lambda answers, labels: _token_losses(answers, labels).mean(1),
    lambda teacher, _: teacher.argmax(-1),
    lambda answers, teacher, temperature, _: _divergence(answers, teacher, temperature).mean(1),
    lambda answers, labels: _token_losses(answers, labels).mean(1),
    (NEXT_TOKEN, PERPLEXITY),
    kept=_told,
)
"""Answers `(samples, tokens, words)`, teacher-forced; labels int64 `(samples, tokens)`, each the following token."""

TEXT_TO_TEXT = Task(
    "text to text",
    _text_loss,
    lambda teacher, labels: torch.where(labels == IGNORED, labels, teacher.argmax(-1)),
    lambda answers, teacher, temperature, labels: _mean_counted(_divergence(answers, teacher, temperature), labels),
    _text_loss,
    (EXACT_MATCH, TOKEN_ACCURACY, TOKEN_PERPLEXITY),
    kept=_told,
)
"""Answers `(samples, tokens, words)`, teacher-forced; labels int64 `(samples, tokens)`, `IGNORED` behind the end."""
