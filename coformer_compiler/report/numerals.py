"""Figures as people read them: few digits, one unit a column, a true minus sign."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from coformer_compiler.report.schema import Timing

THIN_SPACE = "\u202f"
MINUS = "\u2212"
NONE = "\u2013"


@dataclass(frozen=True)
class Scale:
    """How the numbers of one column are written: divided by `factor`, with `decimals`, in `unit`."""

    unit: str
    factor: float
    decimals: int

    def number(self, value: float | None) -> str:
        """The number without its unit; a dash where there is none; "<0.01" rather than a false zero."""
        if value is None:
            return NONE
        least = 10.0**-self.decimals
        if 0 < value / self.factor < least / 2:
            return f"<{least:.{self.decimals}f}"
        return f"{value / self.factor:,.{self.decimals}f}"

    def quantity(self, value: float | None) -> str:
        """The number with its unit."""
        return NONE if value is None else f"{self.number(value)}{THIN_SPACE}{self.unit}".rstrip(THIN_SPACE)


_STEPS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))


def scale_for(values: Iterable[float | None], unit: str = "") -> Scale:
    """One scale for all of `values` (not negative): the largest below 1,000, three digits for the median one."""
    known = sorted(value for value in values if value)
    if not known:
        return Scale(unit, 1.0, 0)
    factor, prefix = next((step for step in _STEPS if known[-1] >= step[0]), _STEPS[-1])
    return Scale(prefix + unit, factor, _decimals(known[(len(known) - 1) // 2] / factor) if factor > 1 else 0)


def scale_ms(values: Iterable[float | None]) -> Scale:
    """Milliseconds: three digits for the median value, two decimals at most."""
    known = sorted(value for value in values if value)
    return Scale("ms", 1.0, _decimals(known[(len(known) - 1) // 2]) if known else 1)


def bytes_text(value: float | None) -> str:
    """One size: bytes exactly below 10,000, else with three digits in decimal units."""
    if value is None:
        return NONE
    return f"{value:,.0f}{THIN_SPACE}B" if value < 10_000 else scale_for([value], "B").quantity(value)


def percent_text(share: float | None, decimals: int = 1) -> str:
    """A share in per cent, without the sign."""
    return NONE if share is None else f"{100.0 * share:.{decimals}f}"


def points_text(share: float | None, reference: float | None) -> str:
    """Distance from `reference` in points of a per cent, with its sign."""
    if share is None or reference is None:
        return NONE
    points = round(100.0 * (share - reference), 1)
    return "0.0" if points == 0 else f"{'+' if points > 0 else MINUS}{abs(points):.1f}"


def seconds_text(seconds: float) -> str:
    """A duration: "0.03 s", "12.4 s", "3 min 20 s", "4 h 15 min"."""
    if seconds >= 7200:
        return f"{int(seconds) // 3600}{THIN_SPACE}h {int(seconds) % 3600 // 60}{THIN_SPACE}min"
    if seconds >= 120:
        return f"{int(seconds) // 60}{THIN_SPACE}min {int(seconds) % 60}{THIN_SPACE}s"
    return f"{seconds:.{2 if seconds < 10 else 1}f}{THIN_SPACE}s"


def medians(timings: Iterable[Timing | None]) -> list[float | None]:
    """The medians of those that were measured."""
    return [None if timing is None else timing.median for timing in timings]


def list_text(words: Sequence[str]) -> str:
    """The words as in "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers within [low, high], evenly spaced."""
    span = high - low
    if span <= 0:
        return [low]
    raw = span / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if raw <= power * factor * 1.0001)
    first = math.ceil(low / step - 1e-9)
    return [round((first + i) * step, 10) for i in range(int((high - first * step) / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers 1, 2, 5 × 10ⁿ within [low, high]; only some of them where that makes more than six."""
    found = [factor * 10.0**n for n in range(-12, 13) for factor in (1, 2, 5) if low <= factor * 10.0**n <= high]
    if len(found) <= 6:
        return found
    return [value for value in found if f"{value:e}".startswith("1")]


def tick_text(value: float) -> str:
    """A tick's label without idle zeros."""
    return f"{value:.6g}".replace("-", MINUS)


def _decimals(value: float) -> int:
    if value <= 0:
        return 0
    return min(2, max(0, 2 - math.floor(math.log10(value))))
