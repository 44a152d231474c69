"""When a measured rate is reason enough to go from one range of rates to another."""

from typing import Optional, Sequence

from .link_rate import Rate

MARGIN = 1.25
"""How far beyond a boundary a rate has to be, as a factor."""
DWELL_S = 3.0
"""How long it has to be there; no two changes are nearer to each other."""


class Hysteresis:
    """A place among ranges, which moves only for what is clear and lasts.

    Args:
        boundaries: between the ranges, Mbit/s, ascending; place n lies below boundary n.
        place: where to begin.
        margin, dwell_s: see MARGIN and DWELL_S.
    """

    def __init__(
        self, boundaries: Sequence[float], place: int, margin: float = MARGIN, dwell_s: float = DWELL_S
    ) -> None:
        self.place = place
        self._boundaries, self._margin, self._dwell_s = tuple(boundaries), margin, dwell_s
        self._since: Optional[float] = None
        self._upwards = False

    def update(self, rate: Optional[Rate], now: float) -> int:
        """Return the place for a rate measured now (seconds); without one it stays what it was."""
        wish = self.place if rate is None else self._wish(rate)
        if wish == self.place:
            self._since = None
            return self.place
        upwards = wish > self.place
        if self._since is None or upwards != self._upwards:
            self._since, self._upwards = now, upwards
        if now - self._since >= self._dwell_s:
            self.place, self._since = wish, None
        return self.place

    def _wish(self, rate: Rate) -> int:
        place = self.place
        while place < len(self._boundaries) and rate.low > self._boundaries[place] * self._margin:
            place += 1
        while place > 0 and rate.high < self._boundaries[place - 1] / self._margin:
            place -= 1
        return place
