"""The Pareto front of a search's journal, and the policy that is picked from it."""

from __future__ import annotations

from collections.abc import Sequence

from coformer_compiler.decomposer.picks import UNDER
from coformer_compiler.decomposer.search.journal import Entry
from coformer_compiler.decomposer.search.search import best_of
from coformer_runtime.errors import CoformerError


def pareto_front(entries: Sequence[Entry]) -> list[Entry]:
    """Entries that no other one matches in loss, latency and energy and beats in one of them; the fastest first."""
    ranked = sorted(entries, key=_figures)
    front: list[Entry] = []
    for entry in ranked:
        ours = _figures(entry)
        if not any(all(a <= b for a, b in zip(_figures(other), ours, strict=True)) for other in front):
            front.append(entry)
    return front


def picked(entries: Sequence[Entry], pick: str) -> Entry:
    """The entry to build.

    Args:
        entries: evaluated, at least one.
        pick: "best" by the objective; "knee", of the front, nearest to the least loss and the least latency;
            "fastest"; "most-accurate"; "under=MS", the most accurate within a latency.

    Raises:
        CoformerError: if nothing is under the given latency; says how fast the fastest is.
    """
    front = pareto_front(entries)
    if pick == "best":
        return best_of(entries)
    if pick == "fastest":
        return front[0]
    if pick == "most-accurate":
        return min(front, key=lambda entry: entry.score.loss)
    if pick == "knee":
        return _knee(front)
    limit = float(pick[len(UNDER) :])
    under = [entry for entry in front if entry.score.latency.total_ms <= limit]
    if not under:
        raise CoformerError(
            f"no evaluated policy is under {limit:g} ms; the fastest takes {front[0].score.latency.total_ms:.3g} ms",
            "search.pick",
            "allow more, or search longer with a larger search.delta",
        )
    return min(under, key=lambda entry: entry.score.loss)


def _knee(front: Sequence[Entry]) -> Entry:
    """Nearest to the corner of the least loss and the least latency, each axis scaled to the front's extent."""

    def scaled(values: Sequence[float]) -> list[float]:
        low, high = min(values), max(values)
        return [(value - low) / (high - low) if high > low else 0.0 for value in values]

    losses = scaled([entry.score.loss for entry in front])
    times = scaled([entry.score.latency.total_ms for entry in front])
    return front[min(range(len(front)), key=lambda n: (losses[n] ** 2 + times[n] ** 2, n))]


def _figures(entry: Entry) -> tuple[float, float, float]:
    return entry.score.latency.total_ms, entry.score.loss, entry.score.energy_mj
