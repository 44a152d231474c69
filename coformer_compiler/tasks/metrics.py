"""Metrics: answers and labels of a whole split to one number, 1 at best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Metric:
    """A metric and its name.

    Attributes:
        name: as reports print it.
        measure: answers `(samples, outputs)` and labels to a number, 1 at best.
    """

    name: str
    measure: Callable[[torch.Tensor, torch.Tensor], float]


def accuracy(answers: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of right classes."""
    return float((answers.argmax(-1) == labels).double().mean())


def f1(answers: torch.Tensor, labels: torch.Tensor) -> float:
    """Harmonic mean of precision and recall of class 1, as GLUE takes it; 0 where neither has anything."""
    found, wanted = answers.argmax(-1) == 1, labels == 1
    both = int((found & wanted).sum())
    total = int(found.sum()) + int(wanted.sum())
    return 2 * both / total if total else 0.0


def matthews(answers: torch.Tensor, labels: torch.Tensor) -> float:
    """Matthews' correlation of two classes; 0 where either side knows only one."""
    return pearson(answers.argmax(-1)[:, None].double(), labels.double())


def pearson(answers: torch.Tensor, labels: torch.Tensor) -> float:
    """Correlation of the first output with the label; 0 where either is constant."""
    x, y = answers[:, 0].double(), labels.double()
    x, y = x - x.mean(), y - y.mean()
    size = x.norm() * y.norm()
    return float(x @ y / size) if size > 0 else 0.0


def spearman(answers: torch.Tensor, labels: torch.Tensor) -> float:
    """Correlation of the ranks; equal values share the mean of theirs."""
    return pearson(_ranks(answers[:, 0])[:, None], _ranks(labels))


def _ranks(values: torch.Tensor) -> torch.Tensor:
    _, places, counts = torch.unique(values.double(), return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    ranks: torch.Tensor = (last - (counts - 1).double() / 2)[places]
    return ranks


def cosine(answers: torch.Tensor, labels: torch.Tensor) -> float:
    """Mean cosine of answer and label `(samples, outputs)`."""
    return float(F.cosine_similarity(answers.double(), labels.double(), dim=-1).mean())


def retrieval(answers: torch.Tensor, labels: torch.Tensor) -> float:
    """How often the nearest other sample is the same among the answers as among the labels, by cosine."""
    if len(answers) < 3:
        return 1.0
    return float((_nearest(answers) == _nearest(labels)).double().mean())


def _nearest(vectors: torch.Tensor) -> torch.Tensor:
    """Index of each vector's nearest other one, `(samples,)`."""
    unit = F.normalize(vectors.double(), dim=-1)
    found = []
    for first in range(0, len(unit), 1024):
        near = unit[first : first + 1024] @ unit.T
        near[torch.arange(len(near)), torch.arange(first, first + len(near))] = -2
        found.append(near.argmax(1))
    return torch.cat(found)


def next_token(told: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of tokens that were the likeliest; `told` `(samples, tokens, 2)` are losses and hits, see `LANGUAGE`."""
    return float(told[..., 1].double().mean())


def perplexity(told: torch.Tensor, labels: torch.Tensor) -> float:
    """Exponential of the mean loss of a token in nats; less is better."""
    return float(told[..., 0].double().mean().exp())


IGNORED = -100
"""The label of a token that is none."""


def exact_match(told: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of texts of which every token was the likeliest, the one that ends it included.

    These are the texts that greedy generation writes exactly so: it does as long as each token is the likeliest behind
    those before it, and these are what teacher forcing gives it.
    """
    right = (told[..., 1] > 0) | (labels == IGNORED)
    return float(right.all(1).double().mean())


def next_counted(told: torch.Tensor, labels: torch.Tensor) -> float:
    """`next_token` over the tokens that have labels."""
    return float(told[..., 1][labels != IGNORED].double().mean())


def perplexity_counted(told: torch.Tensor, labels: torch.Tensor) -> float:
    """`perplexity` over the tokens that have labels."""
    return float(told[..., 0][labels != IGNORED].double().mean().exp())


ACCURACY, F1, MATTHEWS = Metric("accuracy", accuracy), Metric("F1", f1), Metric("Matthews correlation", matthews)
PEARSON, SPEARMAN = Metric("Pearson correlation", pearson), Metric("Spearman correlation", spearman)
NEXT_TOKEN, PERPLEXITY = Metric("next-token accuracy", next_token), Metric("perplexity", perplexity)
EXACT_MATCH = Metric("exact match", exact_match)
TOKEN_ACCURACY, TOKEN_PERPLEXITY = Metric("token accuracy", next_counted), Metric("perplexity", perplexity_counted)
COSINE, RETRIEVAL = Metric("mean cosine", cosine), Metric("retrieval agreement", retrieval)
