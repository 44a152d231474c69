"""Metrics against other people's formulas, and against cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import torch
from hypothesis import given
from hypothesis import strategies as st

from coformer_compiler.tasks import metrics

CLASSES = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=2, max_size=30)
NUMBERS = st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=3, max_size=30)


@given(CLASSES)
def test_metrics_of_classes(pairs: list[tuple[int, int]]) -> None:
    found, wanted = np.array(pairs).T
    answers = torch.nn.functional.one_hot(torch.tensor(found), 2).float()
    labels = torch.tensor(wanted)
    assert metrics.accuracy(answers, labels) == pytest.approx((found == wanted).mean())
    if len({*found, *wanted}) < 2:
        assert metrics.matthews(answers, labels) == 0
        return
    assert metrics.f1(answers, labels) == pytest.approx(sklearn.metrics.f1_score(wanted, found, zero_division=0))
    assert metrics.matthews(answers, labels) == pytest.approx(sklearn.metrics.matthews_corrcoef(wanted, found))


@given(NUMBERS)
def test_correlations(pairs: list[tuple[int, int]]) -> None:
    found, wanted = np.array(pairs, np.float32).T
    answers, labels = torch.from_numpy(found.copy())[:, None], torch.from_numpy(wanted.copy())
    if np.ptp(found) == 0 or np.ptp(wanted) == 0:
        assert metrics.pearson(answers, labels) == metrics.spearman(answers, labels) == 0
        return
    assert metrics.pearson(answers, labels) == pytest.approx(scipy.stats.pearsonr(found, wanted)[0], abs=1e-6)
    assert metrics.spearman(answers, labels) == pytest.approx(scipy.stats.spearmanr(found, wanted)[0], abs=1e-6)


def test_cosine_and_retrieval() -> None:
    labels = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    assert metrics.cosine(3 * labels, labels) == pytest.approx(1)
    assert metrics.retrieval(labels, labels) == 1
    swapped = labels[[0, 2, 1, 3]]
    assert metrics.retrieval(swapped, labels) == 0
    assert metrics.cosine(-labels, labels) == pytest.approx(-1)
