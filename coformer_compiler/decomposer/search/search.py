"""Algorithm 1, lines 1 to 10: sample, evaluate, fit, propose, until the budget is spent."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coformer_compiler.decomposer.search.encoding import Point
from coformer_compiler.decomposer.search.journal import Entry, Origin, append, keep_spent, open_journal, spent_seconds
from coformer_compiler.decomposer.search.proposers import PROPOSERS, Request, random_policies
from coformer_compiler.decomposer.search.space import Shapes, Space
from coformer_compiler.decomposer.search.surrogate import Proposal
from coformer_compiler.evaluator.score import Score
from coformer_compiler.progress import Progress

Scorer = Callable[[Sequence[Shapes]], Sequence[Score]]


@dataclass(frozen=True)
class SearchOptions:
    """Budget and kind of search.

    Attributes:
        iterations: evaluations, beside the starts.
        initial: of these, at random before the first fit (r of Algorithm 1).
        strategy: a name in `PROPOSERS`.
        seed: of all draws.
        batch: policies that are proposed, then evaluated, at a time.
        seconds: no further policies are proposed after this long, interruptions not counted; None for no limit.
    """

    iterations: int
    initial: int
    strategy: str
    seed: int
    batch: int = 1
    seconds: float | None = None


def search(
    space: Space,
    score: Scorer,
    delta_per_ms: float,
    starts: Sequence[Point],
    options: SearchOptions,
    journal: Path,
    origin: Origin,
    progress: Progress,
) -> list[Entry]:
    """All evaluated decompositions; the best is `best_of` them. Goes on from the journal where there is one.

    Args:
        space: points to shapes that fit.
        score: shapes to scores, several at a time.
        delta_per_ms: δ over the unit of T.
        starts: points evaluated first whatever the strategy (uniform, proportional), so that the result is never worse
            and the search begins around something sensible.
        options: budget, strategy, seed.
        journal: where evaluations are kept; its folder exists.
        origin: what the journal belongs to.
        progress: shows the best objective so far, the expected gain (see `Proposal`), and what is left of the time.

    Raises:
        CoformerError: if no point of the space fits the devices, or the journal is another search's.
    """
    began = time.monotonic()
    total = len(starts) + options.iterations
    stops = _stops(len(starts), options)
    # A batch that a kill cut short is proposed again as a whole, so that a resumed search goes the same way.
    entries = open_journal(journal, origin, (0, *stops))
    before = spent_seconds(journal) if entries else 0.0
    with progress.stage(f"{options.strategy} search", total=total, done=len(entries), unit="candidate") as stage:
        for stop in (stop for stop in stops if stop > len(entries)):
            left = math.inf if options.seconds is None else options.seconds - before - (time.monotonic() - began)
            if left < 0 and len(entries) >= len(starts):
                break
            random = np.random.default_rng([options.seed, len(entries)])
            request = Request(space, entries, stop - len(entries), delta_per_ms, random)
            proposals = _proposed(request, starts, options)
            scores = score([proposal.shapes for proposal in proposals])
            fresh = [
                Entry(tuple(float(v) for v in proposal.point), proposal.shapes, found)
                for proposal, found in zip(proposals, scores, strict=True)
            ]
            append(journal, fresh)
            spent = before + time.monotonic() - began
            keep_spent(journal, spent)
            entries += fresh
            stage.advance(len(fresh), figures=_figures(space, entries, proposals, options, spent))
    return entries


def best_of(entries: Sequence[Entry]) -> Entry:
    """The entry of the smallest objective, the first among equals."""
    return min(entries, key=lambda entry: entry.score.objective)


def _stops(starts: int, options: SearchOptions) -> list[int]:
    """Numbers of entries at which the search looks at what it has."""
    end, drawn = starts + options.iterations, starts + min(options.initial, options.iterations)
    drawing = range(starts + options.batch, drawn, options.batch)
    asking = range(drawn + options.batch, end, options.batch)
    return sorted({starts, *drawing, drawn, *asking, end} - {0})


def _proposed(request: Request, starts: Sequence[Point], options: SearchOptions) -> list[Proposal]:
    done = len(request.entries)
    if done < len(starts):
        shapes = [(point, request.space.shapes(point)) for point in starts]
        drawn = [request.space.drawn(request.random) if found is None else (point, found) for point, found in shapes]
        return [Proposal(point, found, float("nan")) for point, found in drawn]
    if done < len(starts) + options.initial:
        return random_policies(request)
    return PROPOSERS[options.strategy](request)


def _figures(
    space: Space, entries: Sequence[Entry], proposals: Sequence[Proposal], options: SearchOptions, spent: float
) -> dict[str, float]:
    best, unit = best_of(entries).score, "estimated ms" if space.latency.estimated else "ms"
    found = {"best objective": best.objective, "loss": best.loss, unit: best.latency.total_ms}
    gains = [proposal.gain for proposal in proposals if not math.isnan(proposal.gain)]
    if gains:
        found["expected gain in log loss"] = max(gains)
    if options.seconds is not None:
        found["budget left, s"] = round(max(0.0, options.seconds - spent))
    return found
