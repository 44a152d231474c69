"""How the policy was found: the best objective so far, and loss against latency of all that was evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from coformer_compiler.report.blocks import section
from coformer_compiler.report.charts import Line, line_chart
from coformer_compiler.report.markup import Markup, element
from coformer_compiler.report.numerals import percent_text
from coformer_compiler.report.schema import OtherSearch, Report, Search

ALL, OTHERS = "all", "others"
RIVALS = ("d1", "d2", "d3", "d4", "d5", "d6", "d7")
"""Colours of the other searches; `d0` marks what was built."""


def search_html(report: Report) -> Markup:
    """The section; nothing where the policy was not searched."""
    found = report.search
    if found is None or not found.evaluations:
        return Markup("")
    charts = element("div", _convergence(found), _front(found), class_="charts")
    return section("How the policy was found", _lead(found), charts, element("p", _space(found), class_="soft"))


def latency_word(found: Search) -> str:
    """What the search's latencies are."""
    return "estimated" if found.estimated else "predicted"


def _lead(found: Search) -> str:
    picked = found.evaluations[found.picked]
    return (
        f"{found.strategy} evaluated {len(found.evaluations)} policies without training them. Built was number "
        f"{found.picked + 1} ({found.pick}): loss {picked.loss:.3g} nats, {picked.latency:.3g} ms "
        f"{latency_word(found)}, {picked.members} {'device' if picked.members == 1 else 'devices'}."
    )


def _space(found: Search) -> str:
    text = f"{percent_text(found.fits)} % of random policies fit the devices as drawn"
    broken = sorted(found.binding.items(), key=lambda item: -item[1])[:3]
    limits = ", ".join(f"{name} {percent_text(share)} %" for name, share in broken)
    return f"{text}; what the others break: {limits}." if broken else f"{text}."


def _convergence(found: Search) -> Markup:
    objectives = [each.objective for each in found.evaluations]
    best = list(accumulate(objectives, min))
    # The legend names them: labels at the ends of lines that come to much the same would lie on each other.
    rivals = [
        Line("", _numbered(list(accumulate(other.objectives, min))), RIVALS[n % len(RIVALS)], dashed=True)
        for n, other in enumerate(found.others)
    ]
    own = "best so far" if not rivals else found.strategy
    dots = Line("", _numbered(objectives), OTHERS, dots=True, joined=False)
    lines = [dots, *rivals, Line(own, _numbered(best), ALL)]
    log = min(y for line in lines for _, y in line.points) > 0
    estimated = ", T estimated" if found.estimated else ""
    what = f"Objective, loss + δ·T{estimated}" + (", log scale" if log else "")
    text = f"best so far from {best[0]:.3g} to {best[-1]:.3g}"
    text += "".join(
        f"; {name} to {line.points[-1][1]:.3g}" for name, line in zip(rival_names(found), rivals, strict=True)
    )
    picture = line_chart(f"Search: {what}", text, lines, _three_digits, log, "policies")
    caption = [element("figcaption", what + ("; lines: best so far" if rivals else ""))]
    return element("figure", *caption, picture, *([_legend(found, rivals)] if rivals else []))


def rival_names(found: Search) -> list[str]:
    """The other searches' strategies, numbered where there are several alike: this one is the first of its own."""
    names, seen = [], [found.strategy]
    for other in found.others:
        count = seen.count(other.strategy)
        names.append(f"{other.strategy} ({count + 1})" if count else other.strategy)
        seen.append(other.strategy)
    return names


def _legend(found: Search, rivals: Sequence[Line]) -> Markup:
    """A line each: colour, strategy, how many policies, and the best objective."""
    own = OtherSearch(found.strategy, tuple(each.objective for each in found.evaluations))
    rows = [(ALL, f"{found.strategy} (this one)", own)]
    rows += [
        (line.colour, name, other) for line, name, other in zip(rivals, rival_names(found), found.others, strict=True)
    ]
    told = [
        element(
            "li",
            element("span", class_=f"chip {colour}", aria_hidden="true"),
            f"{name}: {min(other.objectives):.3g} after {len(other.objectives)} policies",
        )
        for colour, name, other in rows
    ]
    return element("ul", *told, class_="legend")


def _front(found: Search) -> Markup:
    points = [(each.latency, each.loss) for each in found.evaluations]
    front = sorted({points[n] for n in found.front})
    lines = [
        Line("", tuple(sorted(points)), OTHERS, dots=True, joined=False),
        Line("front", tuple(front), ALL, joined=False, dots=True),
        Line("built", (points[found.picked],), "d0", dots=True),
    ]
    log = min(loss for _, loss in points) > 0
    what = "Loss in nats before training" + (", log scale" if log else "") + f", against {latency_word(found)} latency"
    text = f"{len(front)} policies that no other beats; built: {points[found.picked][1]:.3g} nats"
    picture = line_chart(f"Search: {what}", text, lines, _three_digits, log, "ms")
    caption = f"{what}; dark: beaten by none in loss, latency and energy (estimated) at once"
    return element("figure", element("figcaption", caption), picture)


def _numbered(values: Sequence[float]) -> tuple[tuple[float, float], ...]:
    return tuple((float(n), value) for n, value in enumerate(values, 1))


def _three_digits(value: float) -> str:
    return f"{value:.3g}"
