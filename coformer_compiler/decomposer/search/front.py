"""The Pareto front of a search's journal, and the policy that is picked from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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


def picked(entries: Sequence[Entry], pick: str, *, estimated: bool = False) -> Entry:
    """The entry to build: of the front, the one that `preference` puts first; for "best" of all entries.

    Args:
        entries: evaluated, at least one.
        pick: "best" by the objective; "knee", of the front, nearest to the least loss and the least latency;
            "fastest"; "most-accurate"; "under=MS", the most accurate within a latency.
        estimated: whether latencies rest on less than measurements, for the error.

    Raises:
        CoformerError: if nothing is under the given latency; says how fast the fastest is.
    """
    if pick == "best":
        return best_of(entries)
    front = pareto_front(entries)
    chosen = min(front, key=preference(entries, pick))
    if pick.startswith(UNDER) and chosen.score.latency.total_ms > float(pick[len(UNDER) :]):
        raise CoformerError(
            f"no evaluated policy is under {float(pick[len(UNDER) :]):g} ms; the fastest takes "
            f"{front[0].score.latency.total_ms:.3g} ms{' (estimated)' if estimated else ''}",
            "search.pick",
            "allow more, or search longer with a larger search.delta",
        )
    return chosen


def preference(entries: Sequence[Entry], pick: str) -> Callable[[Entry], tuple[float, ...]]:
    """What a pick minimises, for entries of a search; the knee hangs on the extent of the whole front."""
    if pick == "best":
        return lambda entry: (entry.score.objective,)
    if pick == "fastest":
        return _figures
    if pick == "most-accurate":
        return lambda entry: (entry.score.loss,)
    if pick == "knee":
        return _distance_to_corner(pareto_front(entries))
    limit = float(pick[len(UNDER) :])
    return lambda entry: (float(entry.score.latency.total_ms > limit), entry.score.loss)


def _distance_to_corner(front: Sequence[Entry]) -> Callable[[Entry], tuple[float, ...]]:
    """From the least loss and the least latency, each axis scaled to the front's extent."""

    def scale(values: Sequence[float]) -> Callable[[float], float]:
        low, high = min(values), max(values)
        return lambda value: (value - low) / (high - low) if high > low else 0.0

    losses = scale([entry.score.loss for entry in front])
    times = scale([entry.score.latency.total_ms for entry in front])
    return lambda entry: (losses(entry.score.loss) ** 2 + times(entry.score.latency.total_ms) ** 2,)


def _figures(entry: Entry) -> tuple[float, float, float]:
    return entry.score.latency.total_ms, entry.score.loss, entry.score.energy_mj
