"""How the policy was found: the best objective so far, and loss against latency of all that was evaluated."""

from __future__ import annotations

from itertools import accumulate

from coformer_compiler.report.blocks import section
from coformer_compiler.report.charts import Line, line_chart
from coformer_compiler.report.markup import Markup, element
from coformer_compiler.report.numerals import percent_text
from coformer_compiler.report.schema import Report, Search

ALL, OTHERS = "all", "others"


def search_html(report: Report) -> Markup:
    """The section; nothing where the policy was not searched."""
    found = report.search
    if found is None or not found.evaluations:
        return Markup("")
    charts = element("div", _convergence(found), _front(found), class_="charts")
    return section("How the policy was found", _lead(found), charts, element("p", _space(found), class_="soft"))


def _lead(found: Search) -> str:
    picked = found.evaluations[found.picked]
    return (
        f"{found.strategy} evaluated {len(found.evaluations)} policies without training them. Built was number "
        f"{found.picked + 1} ({found.pick}): loss {picked.loss:.3g} nats, {picked.latency:.3g} ms predicted, "
        f"{picked.members} {'device' if picked.members == 1 else 'devices'}."
    )


def _space(found: Search) -> str:
    text = f"{percent_text(found.fits)} % of random policies fit the devices as drawn"
    broken = sorted(found.binding.items(), key=lambda item: -item[1])[:3]
    limits = ", ".join(f"{name} {percent_text(share)} %" for name, share in broken)
    return f"{text}; what the others break: {limits}." if broken else f"{text}."


def _convergence(found: Search) -> Markup:
    objectives = [each.objective for each in found.evaluations]
    best = list(accumulate(objectives, min))
    lines = [
        Line("", _numbered(objectives), OTHERS, dots=True, joined=False),
        Line("best so far", _numbered(best), ALL),
    ]
    log = min(objectives) > 0
    what = "Objective, loss + δ·T" + (", log scale" if log else "")
    text = f"best so far from {best[0]:.3g} to {best[-1]:.3g}"
    picture = line_chart(f"Search: {what}", text, lines, _three_digits, log, "policies")
    return element("figure", element("figcaption", what), picture)


def _front(found: Search) -> Markup:
    points = [(each.latency, each.loss) for each in found.evaluations]
    front = sorted({points[n] for n in found.front})
    lines = [
        Line("", tuple(sorted(points)), OTHERS, dots=True, joined=False),
        Line("front", tuple(front), ALL, joined=False, dots=True),
        Line("built", (points[found.picked],), "d0", dots=True),
    ]
    log = min(loss for _, loss in points) > 0
    what = "Loss in nats before training" + (", log scale" if log else "") + ", against predicted latency"
    text = f"{len(front)} policies that no other beats; built: {points[found.picked][1]:.3g} nats"
    picture = line_chart(f"Search: {what}", text, lines, _three_digits, log, "ms")
    caption = f"{what}; dark: beaten by none in loss, latency and energy at once"
    return element("figure", element("figcaption", caption), picture)


def _numbered(values: list[float]) -> tuple[tuple[float, float], ...]:
    return tuple((float(n), value) for n, value in enumerate(values, 1))


def _three_digits(value: float) -> str:
    return f"{value:.3g}"
