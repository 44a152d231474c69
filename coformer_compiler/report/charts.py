"""A line chart as inline SVG: round ticks, thin grid, each line labelled at its end."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from coformer_compiler.report.markup import Markup, element, figure_svg, percent, stretched
from coformer_compiler.report.numerals import log_ticks, tick_text, ticks

HEIGHT = 188
LEFT, WIDTH = 0.09, 0.69
TOP, BOTTOM = 10.0, 168.0
LABEL_PITCH = 13.0
LONGEST_LABEL = 14
MOST_POINTS = 240
VIEW = 1000.0

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        label: written at its end; empty for none.
        points: (x, y), x ascending.
        colour: class that sets the colour.
        member: device that it belongs to, for the hover; None where it is everybody's.
        dashed: whether what it shows was not kept.
        dots: whether each point is a measurement to be marked.
        joined: whether a line goes through the points.
    """

    label: str
    points: tuple[Point, ...]
    colour: str
    member: int | None = None
    dashed: bool = False
    dots: bool = False
    joined: bool = True


@dataclass(frozen=True)
class Axes:
    """The limits, and how y is placed and written."""

    x_high: float
    y_low: float
    y_high: float
    log: bool
    y_text: Callable[[float], str]

    def across(self, x: float) -> float:
        """Share of the plot's width."""
        return x / self.x_high if self.x_high else 0.0

    def down(self, y: float) -> float:
        """Share of the plot's height from its top."""
        low, high, y = (math.log(v) for v in (self.y_low, self.y_high, y)) if self.log else (self.y_low, self.y_high, y)
        return (high - y) / (high - low)


def line_chart(
    title: str,
    description: str,
    lines: Sequence[Line],
    y_text: Callable[[float], str],
    log: bool,
    x_unit: str = "steps",
) -> Markup:
    """The chart; `x_unit` goes across, from 0. At least one line must have a point. `log` needs positive values."""
    axes = _axes(lines, y_text, log)
    y_ticks = (log_ticks if log else ticks)(axes.y_low, axes.y_high)
    parts: list[str] = []
    for tick in y_ticks:
        y = _y(axes, tick)
        parts += [
            element("line", x1=percent(LEFT), x2=percent(LEFT + WIDTH), y1=y, y2=y, class_="grid"),
            element("text", y_text(tick), x=percent(LEFT - 0.012), y=y + 4, text_anchor="end"),
        ]
    parts.append(element("line", x1=percent(LEFT), x2=percent(LEFT + WIDTH), y1=BOTTOM, y2=BOTTOM, class_="axis"))
    x_ticks = ticks(0, axes.x_high, 4)
    for tick in x_ticks:
        text = tick_text(tick) + (f" {x_unit}" if tick == x_ticks[-1] else "")
        x = percent(LEFT + WIDTH * axes.across(tick))
        parts.append(element("text", text, x=x, y=BOTTOM + 16, text_anchor="middle"))
    curves = [_curve(axes, line) for line in lines if line.joined and len(line.points) > 1]
    parts.append(stretched(LEFT, TOP, WIDTH, BOTTOM - TOP, (VIEW, VIEW), *curves))
    parts += [dot for line in lines if line.dots or len(line.points) == 1 for dot in _dots(axes, line)]
    parts += _end_labels(axes, lines)
    return figure_svg(title, description, HEIGHT, *parts)


def _axes(lines: Sequence[Line], y_text: Callable[[float], str], log: bool) -> Axes:
    values = [y for line in lines for _, y in line.points]
    x_high = max(x for line in lines for x, _ in line.points)
    low, high = min(values), max(values)
    if log:
        return Axes(x_high, low / 1.1, high * 1.1, log, y_text)
    margin = 0.06 * (high - low) or abs(high) * 0.05 or 1.0
    return Axes(x_high, low - margin, high + margin, log, y_text)


def _y(axes: Axes, value: float) -> float:
    return TOP + (BOTTOM - TOP) * axes.down(value)


def _curve(axes: Axes, line: Line) -> Markup:
    points = " ".join(
        f"{VIEW * axes.across(x):.0f},{VIEW * axes.down(y):.0f}" for x, y in thinned(line.points, MOST_POINTS)
    )
    classes = f"line {line.colour}{' dropped' if line.dashed else ''}"
    return element("polyline", points=points, class_=classes, data_device=line.member)


def _dots(axes: Axes, line: Line) -> list[Markup]:
    return [
        element(
            "circle", cx=percent(LEFT + WIDTH * axes.across(x)), cy=_y(axes, y), r=2.5,
            class_=f"{'mark' if line.dashed else 'c'} {line.colour}", data_device=line.member,
        )
        for x, y in line.points
    ]  # fmt: skip


def _end_labels(axes: Axes, lines: Sequence[Line]) -> list[Markup]:
    """Labels at the lines' last points, moved apart where they would touch."""
    ends = sorted((_y(axes, line.points[-1][1]), i) for i, line in enumerate(lines) if line.points and line.label)
    made = []
    for (_, i), y in zip(ends, spread([y for y, _ in ends], LABEL_PITCH, TOP, BOTTOM), strict=True):
        line = lines[i]
        x, last = line.points[-1]
        label = line.label if len(line.label) <= LONGEST_LABEL else line.label[: LONGEST_LABEL - 1] + "…"
        at = percent(LEFT + WIDTH * axes.across(x) + 0.012)
        value = element("tspan", f" {axes.y_text(last)}", class_="roomy")
        made.append(
            element("text", label, value, x=at, y=y + 4, class_=f"strong c {line.colour}", data_device=line.member)
        )
    return made


def spread(places: Sequence[float], pitch: float, low: float, high: float) -> list[float]:
    """Ascending places moved apart to at least `pitch`, within [low, high] where they fit."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + pitch) if moved else max(place, low))
    limit = max(high, low + pitch * (len(moved) - 1))
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], limit)
        limit = moved[i] - pitch
    return moved


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """At most about `most` points: the means of equal runs, with the first and the last point as they are."""
    if len(points) <= most:
        return list(points)
    inner, bins = points[1:-1], most - 2
    found = [points[0]]
    for i in range(bins):
        run = inner[i * len(inner) // bins : (i + 1) * len(inner) // bins]
        found.append((sum(x for x, _ in run) / len(run), sum(y for _, y in run) / len(run)))
    return [*found, points[-1]]
