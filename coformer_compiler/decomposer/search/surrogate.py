"""The Gaussian process and its acquisition, eqs. (9) to (12), through scikit-optimize.

Expected improvement is maximised over a pool of candidates that are feasible by construction, in place of a continuous
optimiser whose optimum would have to be rounded. Length scales are fitted per dimension: with the paper's fixed l = 1
on the unit cube far points are uncorrelated in many dimensions.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from coformer_compiler.decomposer.search.encoding import Point
from coformer_runtime.errors import CoformerError

RANDOM_POOL, MUTATIONS, PARENTS = 384, 384, 6
STEP = 0.12


def propose(points: Sequence[Point], objectives: Sequence[float], random: np.random.Generator) -> Point:
    """The candidate with the largest expected improvement over the best objective so far."""
    gp, ei = _skopt()
    kernels = gp.kernels
    x = np.stack(points)
    y = np.asarray(objectives)
    spread = float(y.std()) or 1.0
    scaled = (y - y.mean()) / spread
    # Objectives of hopeless policies are many spreads away and would decide the length scales; their rank is enough.
    scaled = np.clip(scaled, None, np.median(scaled) + 2)
    kernel = kernels.ConstantKernel(1.0, (0.05, 20.0)) * kernels.Matern(
        np.ones(x.shape[1]), (0.1, 20.0), nu=1.5
    ) + kernels.WhiteKernel(1e-3, (1e-6, 0.3))
    model = gp.GaussianProcessRegressor(kernel=kernel, normalize_y=False, random_state=0)
    with warnings.catch_warnings():
        # A length scale at its bound means that the dimension does not matter, which is an answer.
        warnings.simplefilter("ignore")
        model.fit(x, scaled)
        pool = pool_around(x, scaled, random)
        gains = ei(pool, model, y_opt=float(scaled.min()), xi=0.0)
    chosen: Point = pool[int(np.argmax(gains))]
    return chosen


def pool_around(points: Point, objectives: Point, random: np.random.Generator) -> Point:
    """Uniform candidates, and mutations of the best: a few coordinates moved by a normal step."""
    dimensions = points.shape[1]
    uniform = random.random((RANDOM_POOL, dimensions))
    best = points[np.argsort(objectives, kind="stable")[:PARENTS]]
    parents = best[random.integers(len(best), size=MUTATIONS)]
    moved = random.random((MUTATIONS, dimensions)) < max(0.2, 2 / dimensions)
    steps = random.normal(0, STEP, (MUTATIONS, dimensions)) * moved
    return np.concatenate([uniform, np.clip(parents + steps, 0, 1)])


def _skopt() -> tuple[Any, Any]:
    try:
        import skopt.learning.gaussian_process as gp
        from skopt.acquisition import gaussian_ei
    except ImportError as error:
        raise CoformerError(
            "scikit-optimize is not installed", "policy.strategy 'debo'", "pip install 'coformer-compiler[search]'"
        ) from error
    return gp, gaussian_ei
