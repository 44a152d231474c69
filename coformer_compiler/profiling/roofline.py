"""A linear model of a member's latency: a time per unit of each kernel term, none of them negative."""

from __future__ import annotations

import numpy as np

from coformer_compiler.profiling.table import Floats

RIDGE = 1e-4


def fit_times(terms: Floats, latency_ms: Floats) -> Floats:
    """Milliseconds per unit of each term `(terms,)`, none negative: least squares of relative errors, a small ridge.

    Args:
        terms: `(rows, terms)`.
        latency_ms: `(rows,)`, measured.
    """
    from sklearn.linear_model import LinearRegression

    scale = np.maximum(np.abs(terms).max(0), 1e-12)
    rows = terms / scale / latency_ms[:, None]
    weight = np.sqrt(RIDGE * len(rows) / rows.shape[1]) * rows.std()
    padded = np.vstack([rows, weight * np.eye(rows.shape[1])])
    wanted = np.concatenate([np.ones(len(rows)), np.zeros(rows.shape[1])])
    found = LinearRegression(fit_intercept=False, positive=True).fit(padded, wanted)
    times: Floats = found.coef_ / scale
    return times
