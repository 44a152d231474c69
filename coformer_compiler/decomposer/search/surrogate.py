"""The Gaussian process and its acquisition, eqs. (9) to (12), through scikit-optimize.

Of Ψ = loss + δ·T only the loss has to be guessed: T is known for any policy at once. So the process models the
logarithm of the loss over `features_of` the policy, and the expected improvement is that of this logarithm under what T
leaves to beat, a goal that is every candidate's own. It is maximised over a pool of policies that fit their devices, in
place of a continuous optimiser whose optimum would have to be rounded: fresh ones, mutations of the best, then
mutations of the most promising.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from coformer_compiler.decomposer.search.encoding import Point
from coformer_compiler.decomposer.search.features import Features, features_of
from coformer_compiler.decomposer.search.space import Shapes, Space
from coformer_compiler.evaluator.many import candidates_of
from coformer_runtime.errors import CoformerError

FRESH, MUTATIONS, PARENTS = 192, 192, 6
ROUNDS, CHILDREN = 4, 96
STEPS = (0.05, 0.12, 0.3)
APART = 3
"""Evaluations per feature from which on every feature has a length scale of its own."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Proposal:
    """A policy worth scoring.

    Attributes:
        point: of the search.
        shapes: of the point.
        gain: expected improvement of the logarithm of its loss under the loss with which it would draw level with the
            best so far, given its latency: 0.01 where the loss is expected about 1 % under that. Not a share of the
            objective. NaN where the strategy has no such guess.
    """

    point: Point
    shapes: Shapes
    gain: float


def propose(
    space: Space,
    points: Sequence[Point],
    shapes: Sequence[Shapes],
    losses: Sequence[float],
    delta_per_ms: float,
    count: int,
    random: np.random.Generator,
) -> list[Proposal]:
    """The policies of the largest expected improvement, several at a time.

    Later ones are chosen as if the process' own guess had been measured for the earlier ones ("kriging believer").

    Args:
        space: where to look.
        points: that were scored.
        shapes: of the points.
        losses: of the points, in nats.
        delta_per_ms: δ over the unit of T.
        count: how many to propose.
        random: of the pool.
    """
    layers = space.encoding.shape.layers

    def seen(of: Sequence[Shapes]) -> Features:
        return features_of(candidates_of(of, layers), space.encoding.shape)

    x = seen(shapes)
    logs = np.log(np.maximum(losses, 1e-9))
    objectives = np.asarray(losses) + delta_per_ms * space.latencies(shapes).total_ms
    best = float(objectives.min())
    chosen: list[Proposal] = []
    for _ in range(count):
        model = _Model(x, logs)

        def gains(pool: Sequence[Shapes], model: _Model = model) -> Array:
            left = best - delta_per_ms * space.latencies(pool).total_ms
            return model.gains(seen(pool), left)

        pool = _fitting(space, pool_around(np.stack(points), objectives, random))
        expected = gains([each for _, each in pool])
        for _ in range(ROUNDS):
            top = np.argsort(-expected, kind="stable")[:PARENTS]
            more = _fitting(space, mutations(np.stack([pool[n][0] for n in top]), CHILDREN, random))
            pool, expected = pool + more, np.concatenate([expected, gains([each for _, each in more])])
        taken = {repr(each) for each in (*shapes, *(proposal.shapes for proposal in chosen))}
        ranking = np.argsort(-expected, kind="stable")
        new = int(next((n for n in ranking if repr(pool[n][1]) not in taken), ranking[0]))
        chosen.append(Proposal(*pool[new], float(expected[new])))
        believed = seen([pool[new][1]])
        x, logs = np.concatenate([x, believed]), np.append(logs, model.mean(believed))
    return chosen


class _Model:
    """scikit-optimize's regressor with its Matérn 1.5 kernel on the standardised logarithm of the loss."""

    def __init__(self, x: Features, logs: Array) -> None:
        gp, self.ei = skopt_parts()
        kernels = gp.kernels
        self.centre, self.spread = float(logs.mean()), float(logs.std()) or 1.0
        # One length scale for all features, until there is enough to tell them apart by.
        scales = np.ones(x.shape[1]) if len(x) >= APART * x.shape[1] else 1.0
        kernel = kernels.ConstantKernel(1.0, (0.05, 20.0)) * kernels.Matern(
            scales, (0.5, 20.0), nu=1.5
        ) + kernels.WhiteKernel(1e-2, (1e-4, 0.3))
        self.origin, self.unit = x.mean(0), np.maximum(x.std(0), 1e-6)
        self.model = gp.GaussianProcessRegressor(kernel=kernel, normalize_y=False, random_state=0)
        with warnings.catch_warnings():
            # A length scale at its bound means that the feature does not matter, which is an answer.
            warnings.simplefilter("ignore")
            self.model.fit(self._scaled(x), (logs - self.centre) / self.spread)

    def _scaled(self, x: Features) -> Features:
        found: Features = (x - self.origin) / self.unit
        return found

    def mean(self, x: Features) -> Array:
        """Expected logarithm of the loss."""
        found: Array = self.model.predict(self._scaled(x)) * self.spread + self.centre
        return found

    def gains(self, x: Features, left: Array) -> Array:
        """Expected improvement of the log loss under `left`, what the latency leaves to beat; 0 where that is none."""
        goal = (np.log(np.maximum(left, 1e-9)) - self.centre) / self.spread
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = self.ei(self._scaled(x), _Shifted(self.model, goal), y_opt=0.0, xi=0.0)
        gains: Array = np.where(left > 0, found * self.spread, 0.0)
        return gains


class _Shifted:
    """A regressor of the distance to each candidate's own goal, for an acquisition that knows one goal for all."""

    def __init__(self, model: Any, goal: Array) -> None:
        self.model, self.goal = model, goal

    def predict(self, x: Features, return_std: bool = False) -> Any:
        mean, deviation = self.model.predict(x, return_std=True)
        return (mean - self.goal, deviation) if return_std else mean - self.goal


def pool_around(points: Array, objectives: Array, random: np.random.Generator) -> Array:
    """Uniform candidates, and mutations of the best."""
    best = points[np.argsort(objectives, kind="stable")[:PARENTS]]
    return np.concatenate([random.random((FRESH, points.shape[1])), mutations(best, MUTATIONS, random)])


def mutations(parents: Array, count: int, random: np.random.Generator) -> Array:
    """Children of which a few coordinates moved by a normal step, small, middling or large."""
    dimensions = parents.shape[1]
    chosen = parents[random.integers(len(parents), size=count)]
    moved = random.random((count, dimensions)) < max(0.2, 2 / dimensions)
    steps = random.normal(0, 1, (count, dimensions)) * random.choice(STEPS, (count, 1)) * moved
    made: Array = np.clip(chosen + steps, 0, 1)
    return made


def _fitting(space: Space, points: Array) -> list[tuple[Point, Shapes]]:
    pairs = zip(points, space.many_shapes(points), strict=True)
    return [(point, shapes) for point, shapes in pairs if shapes is not None]


def skopt_parts() -> tuple[Any, Any]:
    """scikit-optimize's Gaussian process module and its expected improvement.

    Raises:
        CoformerError: if it is not installed.
    """
    try:
        import skopt.learning.gaussian_process as gp
        from skopt.acquisition import gaussian_ei
    except ImportError as error:
        raise CoformerError(
            "scikit-optimize is not installed", "policy.strategy 'debo'", "pip install 'coformer-compiler[search]'"
        ) from error
    return gp, gaussian_ei
