"""How well each refitted linear does the teacher's work: per member a grid of R², linears down and layers across."""

from __future__ import annotations

import re
from collections.abc import Sequence

from coformer_compiler.report.blocks import caption_html, device_name, not_measured, section
from coformer_compiler.report.markup import Markup, element, joined
from coformer_compiler.report.numerals import MINUS
from coformer_compiler.report.schema import LinearMatch, Report

# Classes by the share of variance that is lost, 1 − R²; the eye should find what was matched badly.
STEPS = ((0.01, "≥ .99"), (0.03, "≥ .97"), (0.1, "≥ .90"), (0.25, "≥ .75"), (0.5, "≥ .50"), (float("inf"), "less"))
FINE = 14
VERBS = {"reader": "reads", "writer": "writes"}

_LAYER = re.compile(r"^(.*?)(\d+)\.(.+)$")


def match_html(report: Report) -> Markup:
    """The section."""
    title = "How well each layer was matched"
    if not report.match:
        return section(title, "", element("p", not_measured(report, "match")))
    members = sorted({match.member for match in report.match})
    grids = [_grid(report, n, [match for match in report.match if match.member == n]) for n in members]
    layers = max(len(_layers([m for m in report.match if m.member == n])) for n in members)
    least = "30rem" if layers > FINE else f"{min(7.2 + 1.9 * layers, 30):g}rem"
    scale = element(
        "span", *[element("span", text, class_=f"q{i}") for i, (_, text) in enumerate(STEPS)], class_="scale"
    )
    basis = f" Basis of the stream: {report.basis}." if report.basis else ""
    caption = element(
        "figcaption",
        "R² against the teacher on held-out calibration samples, before any training: ",
        scale,
        " Reads: the linear that takes from the stream (Q, K, V; the first of the MLP); writes: the one that adds "
        f"to it.{basis}",
    )
    figure = element("figure", element("div", *grids, class_="heat", style=f"--least:{least}"), caption)
    return section(title, _lead(report), figure, _loose(report))


def _lead(report: Report) -> str:
    known = [m for m in report.match if m.match is not None]
    if not known:
        return ""
    worst = min(known, key=lambda m: m.match if m.match is not None else 1.0)
    whose = report.devices[worst.member].name
    return f"The worst match is {whose}'s {worst.block} where it {VERBS[worst.kind]}, R² {_r2(worst.match)}."


def place_of(block: str) -> tuple[int | None, str]:
    """Layer and linear of a block's name: "blocks.3.mlp.up" → (3, "mlp.up"); no layer for "head"."""
    found = _LAYER.match(block)
    return (int(found[2]), found[3]) if found else (None, block)


def _layers(matches: Sequence[LinearMatch]) -> list[int]:
    return sorted({layer for match in matches for layer, _ in [place_of(match.block)] if layer is not None})


def _grid(report: Report, member: int, matches: Sequence[LinearMatch]) -> Markup:
    cells: dict[tuple[int | None, str], LinearMatch] = {}
    names: dict[str, None] = {}
    for match in matches:
        layer, name = place_of(match.block)
        name = f"{name} {VERBS[match.kind]}"
        cells[layer, name] = match
        if layer is not None:
            names[name] = None
    across = _all_layers(report)
    fine = len(across) > FINE
    head = [element("th", device_name(report, member), scope="col")]
    head += [element("th", str(layer) if not fine or layer % 4 == 0 else "", scope="col") for layer in across]
    rows = []
    for name in names:
        heading = element("th", _short(name), scope="row", title=name)
        rows.append(element("tr", heading, *[_cell(cells.get((layer, name))) for layer in across]))
    known = sorted(m.match for m in matches if m.match is not None)
    caption = f"median {_r2(known[len(known) // 2])}, lowest {_r2(known[0])}" if known else "nothing to match"
    return element(
        "table",
        caption_html(caption),
        element("thead", element("tr", *head)),
        element("tbody", joined(rows)),
        class_="fine" if fine else None,
    )


def _all_layers(report: Report) -> list[int]:
    found = _layers(report.match)
    return list(range(found[0], found[-1] + 1)) if found else []


def _cell(match: LinearMatch | None) -> Markup:
    if match is None or match.match is None:
        return element("td", "")
    step = next(i for i, (lost, _) in enumerate(STEPS) if 1 - match.match <= lost)
    told = f"{match.block} {VERBS[match.kind]}: R² {match.match:.4f}, penalty {match.penalty:.3g}"
    return element("td", _r2(match.match), class_=f"q{step}", title=told)


def _loose(report: Report) -> Markup:
    """The linears outside the layers, in words."""
    loose = [m for m in report.match if place_of(m.block)[0] is None]
    if not loose:
        return Markup("")
    told = [f"{report.devices[m.member].name} {m.block} {_r2(m.match)}" for m in loose]
    return element("p", "Outside the layers: " + ", ".join(told) + ".", class_="soft small")


def _short(linear: str) -> str:
    """The last two parts of a linear's name."""
    return ".".join(linear.split(".")[-2:])


def _r2(value: float | None) -> str:
    """Two decimals without the idle zero, three above .99; never rounded up to 1."""
    if value is None:
        return "–"
    if value >= 0.9995:
        return "1.0" if value >= 0.999995 else ".999"
    text = f"{abs(value):.{3 if value >= 0.99 else 2}f}"
    return (MINUS if value < 0 else "") + (text[1:] if text.startswith("0") else text)
