"""The ways to pick a policy from what a search has evaluated; see `search.front.picked`."""

from __future__ import annotations

from coformer_runtime.errors import CoformerError
from coformer_targets.nearest import suggestion

PICKS = ("best", "knee", "fastest", "most-accurate")
UNDER = "under="


def check_pick(pick: str, where: str) -> None:
    """Refuse a way to pick that there is not.

    Raises:
        CoformerError: naming the nearest one.
    """
    if pick in PICKS:
        return
    if not pick.startswith(UNDER):
        known = (*PICKS, "under=MS")
        raise CoformerError(f"there is no pick '{pick}'", where, suggestion(pick, known, noun="pick"))
    try:
        if float(pick[len(UNDER) :]) <= 0:
            raise ValueError
    except ValueError as error:
        raise CoformerError(
            f"'{pick}' names no latency", where, "write under=MS with milliseconds above 0, such as under=20"
        ) from error
