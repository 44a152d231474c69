"""One policy per bandwidth, from one search: which ones, and at which rates to change from one to the other.

The search's own rule (`--pick`) is applied to its evaluations as they are at each bandwidth. Between two neighbouring
bandwidths with unlike policies, the boundary is the rate at which the rule would change its mind between these two,
found by bisection: there both are worth the same, so that a rate measured a little wrong costs next to nothing. The
geometric mean, which knows nothing of the policies, stands in where the rule never prefers the second one strictly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coformer_compiler.decomposer.search.front import picked, preference
from coformer_compiler.decomposer.search.recost import Recosting
from coformer_runtime.errors import CoformerError

HALVINGS = 40


@dataclass(frozen=True)
class Alternative:
    """One policy of several.

    Attributes:
        name: after the lowest bandwidth that it was picked for, "2mbps".
        number: of its entry in the journal.
        mbps: that bandwidth.
        latency_ms: predicted, at every bandwidth.
    """

    name: str
    number: int
    mbps: float
    latency_ms: tuple[float, ...]


@dataclass(frozen=True)
class Range:
    """Rates in Mbit/s, from `from_mbps` up to `to_mbps` (None: any), and the number of the alternative for them."""

    from_mbps: float
    to_mbps: float | None
    alternative: int


@dataclass(frozen=True)
class Alternatives:
    """What is built for a changing network.

    Attributes:
        bandwidths: in Mbit/s, ascending.
        built: the unlike policies, in the order of the lowest bandwidth of each.
        ranges: from 0 upwards, without a gap; neighbours are of unlike alternatives.
        estimated: whether latencies rest on less than measurements.
    """

    bandwidths: tuple[float, ...]
    built: tuple[Alternative, ...]
    ranges: tuple[Range, ...]
    estimated: bool

    def at(self, mbps: float) -> int:
        """The number of the alternative for a rate."""
        return next(each.alternative for each in self.ranges if each.to_mbps is None or mbps < each.to_mbps)


def alternatives_of(recosting: Recosting, pick: str, bandwidths: Sequence[float]) -> Alternatives:
    """The policies for these bandwidths in Mbit/s, ascending.

    Raises:
        CoformerError: if at one of them no evaluated policy fulfils the pick or meets the deadlines.
    """
    numbers = [_picked_at(recosting, pick, mbps) for mbps in bandwidths]
    unlike = list(dict.fromkeys(numbers))
    latencies = [recosting.latencies(mbps).total_ms for mbps in bandwidths]
    built = []
    for number in unlike:
        mbps = bandwidths[numbers.index(number)]
        built.append(Alternative(f"{exact(mbps)}mbps", number, mbps, tuple(float(each[number]) for each in latencies)))
    ranges: list[Range] = []
    start = 0.0
    for n, (number, following) in enumerate(zip(numbers, [*numbers[1:], None], strict=True)):
        if following == number:
            continue
        end = (
            None
            if following is None
            else boundary(recosting, pick, (number, following), (bandwidths[n], bandwidths[n + 1]))
        )
        ranges.append(Range(start, end, unlike.index(number)))
        start = end or 0.0
    return Alternatives(tuple(bandwidths), tuple(built), tuple(ranges), recosting.estimated)


def exact(mbps: float) -> str:
    """A rate in the fewest digits that tell it from every other one, without an exponent or a zero fraction: "2"."""
    return np.format_float_positional(mbps, trim="-")


def boundary(recosting: Recosting, pick: str, numbers: tuple[int, int], between: tuple[float, float]) -> float:
    """The rate in Mbit/s between two bandwidths at which the pick would go from one entry to the other."""

    def prefers_second(mbps: float) -> bool:
        entries = recosting.at(mbps)
        first, second = (entries[number] for number in numbers)
        if first is None or second is None:
            return first is None and second is not None
        rank = preference([entry for entry in entries if entry is not None], pick)
        return rank(second) < rank(first)

    low, high = between
    if not prefers_second(high):
        return math.sqrt(low * high)
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if prefers_second(middle) else (middle, high)
    return high


def _picked_at(recosting: Recosting, pick: str, mbps: float) -> int:
    """The number of the entry for a bandwidth; of those of equal shapes the first."""
    entries = recosting.at(mbps)
    fitting = [entry for entry in entries if entry is not None]
    if not fitting:
        word = " (estimated)" if recosting.estimated else ""
        raise CoformerError(
            f"no evaluated policy meets the deadlines at {mbps:g} Mbit/s{word}",
            "search",
            "raise deadline_ms of the devices, or leave this bandwidth away",
        )
    try:
        chosen = picked(fitting, pick, estimated=recosting.estimated)
    except CoformerError as error:
        raise CoformerError(f"at {mbps:g} Mbit/s {error.what}", error.where, error.mend) from error
    return next(n for n, entry in enumerate(entries) if entry is not None and entry.shapes == chosen.shapes)
