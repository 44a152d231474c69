"""What each device keeps of the teacher: a table of shares, and a picture with one row per layer.

The picture's row: one cell per head, in the teacher's order; a bar of the layer's neurons sorted by device, with
counts; below it the same neurons in the teacher's order, binned where there are many; and one dot per device that
has the layer at all.
"""

from __future__ import annotations

from collections.abc import Sequence

from coformer_compiler.report.blocks import (
    Heading,
    body_row,
    colour,
    device_name,
    section,
    share_bar,
    table_html,
)
from coformer_compiler.report.kept import Kept, KeptLayer, kept_from_policy, tally
from coformer_compiler.report.markup import Markup, element, figure_svg, percent, stretched
from coformer_compiler.report.schema import Report

BINS = 128
BIN = 60  # units that a column is wide
TOP = 34
HEADS = (0.06, 0.24)
NEURONS = (0.33, 0.5)
DOTS = (0.86, 0.14)
HEADINGS = (
    Heading("device", class_=""),
    Heading("embed width"),
    Heading("", class_="roomy"),
    Heading("layers"),
    Heading("heads"),
    Heading("", class_="roomy"),
    Heading("neurons"),
    Heading("", class_="roomy"),
)


def policy_html(report: Report) -> Markup:
    """The section."""
    kept = kept_from_policy(report.policy)
    dropped = sum(len(kept.embeds) - len(layer.keepers) for layer in kept.layers)
    lead = f"Shared out by the strategy “{kept.strategy}”." if kept.strategy else ""
    if dropped:
        lead += f" {dropped} of {len(kept.layers) * len(kept.embeds)} layers of the members are left out."
    return section("What each device keeps of the teacher", lead.strip(), _shares(report, kept), _picture(report, kept))


def _shares(report: Report, kept: Kept) -> Markup:
    heads = [who for layer in kept.layers for who in layer.heads]
    neurons = [who for layer in kept.layers for who in layer.neurons]
    rows = []
    for n, embed in enumerate(kept.embeds):
        own_heads = sum(n in who for who in heads)
        own_neurons = sum(n in who for who in neurons)
        own_layers = sum(n in layer.keepers for layer in kept.layers)
        cells = (
            f"{embed:,}",
            share_bar(embed / max(kept.embed, 1), n),
            f"{own_layers}",
            f"{own_heads:,}",
            share_bar(own_heads / max(len(heads), 1), n),
            f"{own_neurons:,}",
            share_bar(own_neurons / max(len(neurons), 1), n),
        )
        rows.append(body_row(device_name(report, n), cells, HEADINGS))
    rows.append(
        body_row(
            "the teacher",
            (f"{kept.embed:,}", "", f"{len(kept.layers)}", f"{len(heads):,}", "", f"{len(neurons):,}", ""),
            HEADINGS,
            "sum",
        )
    )
    return table_html("Widths and counts over all layers; the bars are shares of the teacher's.", HEADINGS, rows)


def _picture(report: Report, kept: Kept) -> Markup:
    many = len(kept.layers) > 12
    bar, strip, pitch = (12, 3, 20) if many else (16, 5, 30)
    members = len(report.devices)
    rows = [_row(report, layer, index, TOP + index * pitch, bar, strip) for index, layer in enumerate(kept.layers)]
    height = TOP + len(kept.layers) * pitch
    names = ", ".join(device.name for device in report.devices)
    svg = figure_svg(
        "What each device keeps",
        f"One row for each of {len(kept.layers)} layers of the teacher: heads and neurons coloured by the device of "
        f"{names} that keeps them; a dot per device that has the layer.",
        height,
        *_titles(report, kept),
        *rows,
        class_="tight" if many else "",
    )
    return element("figure", svg, element("figcaption", _caption(kept, members)))


def _titles(report: Report, kept: Kept) -> list[Markup]:
    first = kept.layers[0] if kept.layers else KeptLayer((), (), ())
    places = (
        (0.0, "layer", "strong roomy"),
        (HEADS[0], f"{len(first.heads)} heads", "strong"),
        (NEURONS[0], f"{len(first.neurons):,} neurons", "strong"),
    )
    made = [element("text", text, x=percent(x), y=16, class_=class_) for x, text, class_ in places]
    made.append(element("text", "in which", x=percent(DOTS[0] + 0.01), y=16, class_="strong"))
    return made


def _caption(kept: Kept, members: int) -> str:
    counts = [tally(layer.neurons, members) for layer in kept.layers]
    counts += [tally(layer.heads, members) for layer in kept.layers]
    largest = max((len(layer.neurons) for layer in kept.layers), default=0)
    per_bin = -(-largest // BINS)
    text = "Heads stand in the teacher's order. Neurons: the bar is sorted by device, with counts; the strip below it "
    text += "is in the teacher's order"
    text += f", {per_bin} neurons to a column. " if per_bin > 1 else ". "
    text += "A dot: the device has the layer; a ring: it leaves it out."
    if any(count[members] for count in counts):
        text += " Split cells, and bars in the colour of the text: kept by several."
    if any(count[members + 1] for count in counts):
        text += " Faint: kept by none."
    return text


def _row(report: Report, layer: KeptLayer, index: int, y: float, bar: float, strip: float) -> Markup:
    members = len(report.devices)
    heads, neurons = len(layer.heads), len(layer.neurons)
    whole = bar + strip + 1
    parts = [element("text", str(index), x="0", y=y + whole / 2 + 4.3, class_="strong")]
    if heads:
        cells = _cells(layer.heads, members, whole)
        parts.append(stretched(HEADS[0], y, HEADS[1], whole, (heads, whole), *cells))
    if neurons:
        counts = tally(layer.neurons, members)
        parts.append(stretched(NEURONS[0], y, NEURONS[1], bar, (neurons, bar), *_sorted_bar(counts, bar)))
        parts += _labels(counts, neurons, y + bar / 2 + (3.6 if bar > 12 else 3.3))
        binned = _binned(layer.neurons, members, strip)
        view = (min(neurons, BINS) * BIN, strip)
        parts.append(stretched(NEURONS[0], y + bar + 1, NEURONS[1], strip, view, *binned))
    for n in range(members):
        x = percent(DOTS[0] + DOTS[1] * (n + 0.5) / members)
        has = n in layer.keepers
        dot = element("circle", cx=x, cy=y + whole / 2, r=4 if has else 3.5, class_=f"c {colour(n)}" if has else "ring")
        parts.append(element("g", dot, data_device=n))
    return element("g", *parts)


def _paint(kind: int, members: int) -> str:
    return f"c {colour(kind)}" if kind < members else ("many", "none")[kind - members]


def _cells(heads: Sequence[tuple[int, ...]], members: int, height: float) -> list[Markup]:
    """One cell per head, split where several devices keep it."""
    made = []
    for index, who in enumerate(heads):
        if not who:
            made.append(element("rect", x=index, y=0, width=0.92, height=height, class_="none"))
        for place, n in enumerate(who):
            wide = 0.92 / len(who)
            rect = element(
                "rect", x=index + place * wide, y=0, width=wide, height=height, class_=_paint(n, members), data_device=n
            )
            made.append(rect)
    return made


def _sorted_bar(counts: Sequence[int], height: float) -> list[Markup]:
    made, x, members = [], 0, len(counts) - 2
    for kind, count in enumerate(counts):
        if count:
            made.append(
                element(
                    "rect", x=x, y=0, width=count, height=height, class_=_paint(kind, members),
                    data_device=kind if kind < members else None,
                )
            )  # fmt: skip
        x += count
    return made


def _labels(counts: Sequence[int], neurons: int, y: float) -> list[Markup]:
    """The counts inside the bar where they fit; the narrower ones only on a wide page."""
    made, x, members = [], 0, len(counts) - 2
    for kind, count in enumerate(counts):
        share = count / neurons
        if share >= 0.07:
            classes = ["in"] if kind <= members else []
            classes += ["roomy"] if share < 0.16 else []
            middle = percent(NEURONS[0] + NEURONS[1] * (x + count / 2) / neurons)
            text = f"{count}"
            made.append(element("text", text, x=middle, y=y, text_anchor="middle", class_=" ".join(classes) or None))
        x += count
    return made


def _binned(neurons: Sequence[tuple[int, ...]], members: int, height: float) -> list[Markup]:
    """The neurons in the teacher's order: at most BINS columns, each divided as its neurons are.

    One stroke per device, as high as the strip, broken where the units are not its own.
    """
    bins = min(len(neurons), BINS)
    commands: list[list[str]] = [[] for _ in range(members + 2)]
    ends = [0] * (members + 2)
    for index in range(bins):
        part = neurons[index * len(neurons) // bins : (index + 1) * len(neurons) // bins]
        x, done = BIN * index, 0
        for kind, count in enumerate(tally(part, members)):
            done += count
            until = BIN * index + round(BIN * done / len(part))
            if until > x:
                commands[kind].append(f"m{x - ends[kind]} 0h{until - x}")
                ends[kind] = until
            x = until
    return [
        element(
            "path",
            d=f"M0 {height / 2:g}" + "".join(drawn),
            class_=f"thread {_paint(kind, members)}",
            stroke_width=height,
            data_device=kind if kind < members else None,
        )
        for kind, drawn in enumerate(commands)
        if drawn
    ]
