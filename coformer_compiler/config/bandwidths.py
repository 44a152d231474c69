"""The bandwidths that alternatives are built for: from the command line or `network.bandwidths`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from coformer_compiler.decomposer.strategies import SEARCHES
from coformer_runtime.errors import CoformerError

EXAMPLE = "write rates in Mbit/s above 0, such as 2,100,1000"


def bandwidths_from_text(text: str) -> tuple[float, ...]:
    """The numbers of `--bandwidths`.

    Raises:
        CoformerError: naming the first word that is none.
    """
    found = []
    for word in text.split(","):
        try:
            found.append(float(word))
        except ValueError as error:
            raise CoformerError(f"'{word.strip()}' is no number", "--bandwidths", EXAMPLE) from error
    return tuple(found)


def checked_bandwidths(bandwidths: Sequence[float], strategy: str, where: str) -> list[float]:
    """In ascending order; none where none are given.

    Raises:
        CoformerError: for what is no rate, one alone, one named twice, and a strategy that does not search.
    """
    where = f"{where}, network.bandwidths"
    if not bandwidths:
        return []
    for mbps in bandwidths:
        if not (math.isfinite(mbps) and mbps > 0):
            raise CoformerError(f"{mbps:g} Mbit/s is no bandwidth", where, EXAMPLE)
        if list(bandwidths).count(mbps) > 1:
            raise CoformerError(f"{mbps:g} Mbit/s is named twice", where, "name each bandwidth once")
    if len(bandwidths) == 1:
        mend = f"name at least two, or set network.mbps = {bandwidths[0]:g} to build for this one"
        raise CoformerError("one bandwidth leaves nothing to change between", where, mend)
    if strategy not in SEARCHES:
        raise CoformerError(
            f"the strategy '{strategy}' gives one policy, whatever the bandwidth",
            where,
            f"choose one that searches: {', '.join(SEARCHES)} (--strategy), or leave the bandwidths away",
        )
    return sorted(bandwidths)
