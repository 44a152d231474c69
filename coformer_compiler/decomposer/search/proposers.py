"""How a search comes to its next policies: one function per strategy, named in `PROPOSERS`.

A proposer sees what was evaluated so far and draws from the generator that it is given alone, so that an interrupted
search goes on the same way.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from coformer_compiler.decomposer.search.encoding import Point
from coformer_compiler.decomposer.search.journal import Entry
from coformer_compiler.decomposer.search.space import Space
from coformer_compiler.decomposer.search.surrogate import Proposal, propose, skopt_parts
from coformer_runtime.errors import CoformerError


@dataclass(frozen=True)
class Request:
    """What a proposer is asked.

    Attributes:
        space: where to look.
        entries: evaluated so far, none of them missing.
        count: how many policies are wanted.
        delta_per_ms: δ over the unit of T.
        random: of all draws.
    """

    space: Space
    entries: Sequence[Entry]
    count: int
    delta_per_ms: float
    random: np.random.Generator


def random_policies(request: Request) -> list[Proposal]:
    """Uniform points that fit."""
    drawn = [request.space.drawn(request.random) for _ in range(request.count)]
    return [Proposal(point, shapes, float("nan")) for point, shapes in drawn]


def debo(request: Request) -> list[Proposal]:
    """Gaussian process on the loss, with the latency known; see `surrogate`."""
    entries = request.entries
    return propose(
        request.space,
        [np.asarray(entry.point) for entry in entries],
        [entry.shapes for entry in entries],
        [entry.score.loss for entry in entries],
        request.delta_per_ms,
        request.count,
        request.random,
    )


def debo_paper(request: Request) -> list[Proposal]:
    """The paper's letter: scikit-optimize's own ask and tell on the points, Matérn 1.5 with l = 1, eq. (7) in Ψ."""
    gp, _ = skopt_parts()
    from skopt import Optimizer

    kernel = gp.kernels.ConstantKernel(1.0, "fixed") * gp.kernels.Matern(1.0, "fixed", nu=1.5)
    seed = int(request.random.integers(2**31))
    optimizer = Optimizer(
        [(0.0, 1.0)] * request.space.encoding.dimensions,
        gp.GaussianProcessRegressor(kernel=kernel, alpha=1e-6, normalize_y=True, noise=None, random_state=seed),
        n_initial_points=0,
        acq_func="EI",
        acq_func_kwargs={"xi": 0.0},
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a point that was asked for before is answered again
        optimizer.tell([list(e.point) for e in request.entries], [e.score.objective for e in request.entries])
        asked = optimizer.ask(request.count) if request.count > 1 else [optimizer.ask()]
    return _proposals(request, [np.asarray(point) for point in asked])


def optuna_gp(request: Request) -> list[Proposal]:
    """Optuna's Gaussian process sampler.

    Raises:
        CoformerError: if optuna is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise CoformerError(
            "optuna is not installed", "policy.strategy 'optuna-gp'", "pip install 'coformer-compiler[optuna]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    names = [str(n) for n in range(request.space.encoding.dimensions)]
    spaces: dict[str, optuna.distributions.BaseDistribution] = {
        name: optuna.distributions.FloatDistribution(0.0, 1.0) for name in names
    }
    seed = int(request.random.integers(2**31))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the sampler is marked as experimental
        sampler = optuna.samplers.GPSampler(seed=seed, n_startup_trials=0, deterministic_objective=True)
        study = optuna.create_study(sampler=sampler)
        for entry in request.entries:
            params = dict(zip(names, entry.point, strict=True))
            study.add_trial(optuna.trial.create_trial(params=params, distributions=spaces, value=entry.score.objective))
        asked = [study.ask(spaces) for _ in range(request.count)]
    return _proposals(request, [np.array([trial.params[name] for name in names]) for trial in asked])


PROPOSERS: dict[str, Callable[[Request], list[Proposal]]] = {
    "debo": debo,
    "debo-paper": debo_paper,
    "optuna-gp": optuna_gp,
    "random": random_policies,
}


def _proposals(request: Request, points: Sequence[Point]) -> list[Proposal]:
    """The points' policies; a point that fits no device, however small, gives way to a drawn one."""
    made = []
    for point in points:
        shapes = request.space.shapes(point)
        if shapes is None:
            point, shapes = request.space.drawn(request.random)
        made.append(Proposal(point, shapes, float("nan")))
    return made
