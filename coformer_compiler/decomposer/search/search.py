"""Algorithm 1, lines 1 to 10: sample, evaluate, fit, propose, until the budget is spent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from coformer_compiler.decomposer.constraints import Excess, excess
from coformer_compiler.decomposer.search.encoding import Encoding, Point
from coformer_compiler.decomposer.search.journal import Entry, append, open_journal
from coformer_compiler.decomposer.search.surrogate import propose
from coformer_compiler.decomposer.shapes import MaybeShape
from coformer_compiler.evaluator.score import Evaluator, Score
from coformer_compiler.progress import Progress
from coformer_runtime.errors import CoformerError

SHRINK, SMALLEST = 0.85, 0.02
TRIES = 2000


@dataclass(frozen=True)
class SearchOptions:
    """Budget and kind of search.

    Attributes:
        iterations: evaluations in all.
        initial: of these, at random before the first fit (r of Algorithm 1).
        method: "debo" proposes by expected improvement, "random" draws every point.
        seed: of all draws.
    """

    iterations: int
    initial: int
    method: Literal["debo", "random"]
    seed: int


def search(
    encoding: Encoding,
    evaluator: Evaluator,
    starts: Sequence[Point],
    options: SearchOptions,
    journal: Path,
    progress: Progress,
) -> list[Entry]:
    """All evaluated decompositions; the best is `best_of` them. Goes on from the journal where there is one.

    Args:
        encoding: points to shapes.
        evaluator: shapes to scores.
        starts: points evaluated first whatever the method (uniform, proportional), so that the result is never worse
            and the search begins around something sensible.
        options: budget, method, seed.
        journal: where evaluations are kept; its folder exists.
        progress: shows the best objective so far.

    Raises:
        CoformerError: if no point of the space fits the devices; names the constraint that broke most often.
    """
    entries = open_journal(journal)
    total = len(starts) + options.iterations
    with progress.stage(f"{options.method} search", total=total, done=len(entries), unit="policy") as stage:
        while len(entries) < total:
            # Each step draws from a generator of its own, so that a resumed search goes the same way.
            random = np.random.default_rng([options.seed, len(entries)])
            point, shapes = _next(encoding, evaluator, entries, starts, options, random)
            _note(entries, Entry(tuple(float(v) for v in point), shapes, evaluator.score(shapes)), journal)
            stage.advance(figures=_figures(entries))
    return entries


def best_of(entries: Sequence[Entry]) -> Entry:
    """The entry of the smallest objective, the first among equals."""
    return min((entry for entry in entries if entry.score is not None), key=lambda entry: _score(entry).objective)


def pareto_front(entries: Sequence[Entry]) -> list[Entry]:
    """Entries that no other one beats in both loss and latency, the fastest first."""
    front: list[Entry] = []
    done = [entry for entry in entries if entry.score is not None]
    for entry in sorted(done, key=lambda e: (_score(e).latency.total_ms, _score(e).loss)):
        if not front or _score(entry).loss < _score(front[-1]).loss:
            front.append(entry)
    return front


def _next(
    encoding: Encoding,
    evaluator: Evaluator,
    entries: Sequence[Entry],
    starts: Sequence[Point],
    options: SearchOptions,
    random: np.random.Generator,
) -> tuple[Point, tuple[MaybeShape, ...]]:
    done = len(entries)
    if done < len(starts):
        shapes = feasible(encoding, evaluator, starts[done])
        if not isinstance(shapes, Excess):
            return starts[done], shapes
    elif options.method == "debo" and done >= len(starts) + options.initial:
        points = [np.asarray(entry.point) for entry in entries]
        point = propose(points, [_score(entry).objective for entry in entries], random)
        shapes = feasible(encoding, evaluator, point)
        if not isinstance(shapes, Excess):
            return point, shapes
    return _drawn(lambda point: feasible(encoding, evaluator, point), encoding.dimensions, random)


def _drawn(
    decode: Callable[[Point], tuple[MaybeShape, ...] | Excess], dimensions: int, random: np.random.Generator
) -> tuple[Point, tuple[MaybeShape, ...]]:
    """A uniform point that fits the devices."""
    for _ in range(TRIES):
        point = random.random(dimensions)
        shapes = decode(point)
        if not isinstance(shapes, Excess):
            return point, shapes
        broken = shapes
    raise CoformerError(
        f"none of {TRIES} random policies fits the devices; the last broke {broken.constraint}: it needs "
        f"{broken.needed:,.4g} {broken.unit} of {broken.quantity}, there are {broken.limit:,.4g}",
        "search",
        broken.relax,
    )


def feasible(encoding: Encoding, evaluator: Evaluator, point: Point) -> tuple[MaybeShape, ...] | Excess:
    """Shapes of a point, shrunk onto C5 and C6; the limit that still breaks when a share is next to nothing."""
    shrink = [1.0] * len(encoding.devices)
    while True:
        shapes = encoding.decode(point, shrink)
        broken = [
            None
            if shape is None
            else excess(evaluator.teacher.spec, shape, device, shortcuts=evaluator.basis == "per-norm")
            for shape, device in zip(shapes, encoding.devices, strict=True)
        ]
        worst = next((n for n, found in enumerate(broken) if found is not None), None)
        if worst is None:
            return shapes
        shrink[worst] *= SHRINK
        found = broken[worst]
        if shrink[worst] < SMALLEST and found is not None:
            return found


def _note(entries: list[Entry], entry: Entry, journal: Path) -> None:
    append(journal, [entry])
    entries.append(entry)


def _score(entry: Entry) -> Score:
    assert entry.score is not None
    return entry.score


def _figures(entries: Sequence[Entry]) -> dict[str, float]:
    best = _score(best_of(entries))
    return {"best objective": best.objective, "loss": best.loss, "ms": best.latency.total_ms}
