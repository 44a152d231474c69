"""The pieces that the sections of the page are made of: sections, tables, device chips, small bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coformer_compiler.report.markup import Markup, element, joined, percent
from coformer_compiler.report.schema import Report, why_absent

COLOURS = 8


@dataclass(frozen=True)
class Heading:
    """A table column's heading, its unit (on a line of its own), and the class of its cells.

    Classes: "n" aligns numbers to the right; "roomy" shows only on a wide page; "" is plain text.
    """

    text: str
    unit: str = ""
    class_: str = "n"


def section(title: str, lead: str, *children: str) -> Markup:
    """A section with a heading and a sentence that says what there is to see."""
    opening = [element("h2", title), *([element("p", lead, class_="lead")] if lead else [])]
    return element("section", *opening, *children)


def not_measured(report: Report, path: str, word: str = "not measured") -> Markup:
    """The sentence that stands in for a value or a figure that is absent."""
    why = why_absent(report, path)
    return element("span", f"{word}: {why}" if why else word, class_="absent")


def colour(member: int | None) -> str:
    """Class that sets the colour `--c`: a device's own, or ink for everybody."""
    return "all" if member is None else f"d{member % COLOURS}"


def chip(member: int) -> Markup:
    """The little square in the device's colour."""
    return element("span", class_=f"chip {colour(member)}", aria_hidden="true")


def device_name(report: Report, member: int) -> Markup:
    """Chip and name; pointing at it lights up the device's parts."""
    return element("span", chip(member), report.devices[member].name, data_lights=member)


def chips(report: Report, members: Sequence[int]) -> Markup:
    """One square per device, filled for those that take part."""
    squares = [chip(n) if n in members else element("span", class_="chip out") for n in range(len(report.devices))]
    return element("span", *squares, class_="chips", aria_hidden="true")


def share_bar(share: float, member: int | None = None) -> Markup:
    """A bar that is `share` full."""
    filled = element("i", "", style=f"width:{percent(min(max(share, 0.0), 1.0))}")
    return element("span", filled, class_="bar" if member is None else f"bar {colour(member)}", aria_hidden="true")


def caption_html(text: str) -> Markup:
    """A table's caption, which stays in sight where the table scrolls sideways."""
    return element("caption", element("span", text))


def head_row(headings: Sequence[Heading], *more: str) -> Markup:
    """The thead of a table; `more` are further cells."""
    cells = []
    for heading in headings:
        unit = [Markup("<br/>"), element("span", heading.unit, class_="unit")] if heading.unit else []
        cells.append(element("th", heading.text, *unit, scope="col", class_=heading.class_ or None))
    return element("thead", element("tr", *cells, *more))


def body_row(name: str, cells: Sequence[str], headings: Sequence[Heading], class_: str | None = None) -> Markup:
    """A table row: its name, and one cell for each further heading."""
    made = [
        element("td", cell, class_=heading.class_ or None) for cell, heading in zip(cells, headings[1:], strict=True)
    ]
    return element("tr", element("th", name, scope="row"), *made, class_=class_)


def table_html(caption: str, headings: Sequence[Heading], rows: Sequence[Markup], wide: bool = False) -> Markup:
    """A captioned table in a box that scrolls where the page is too narrow for it."""
    table = element(
        "table",
        caption_html(caption),
        head_row(headings),
        element("tbody", joined(rows)),
        class_="wide" if wide else None,
    )
    return element("div", table, class_="scroll", tabindex=0, role="region", aria_label=caption)


def definitions(pairs: Sequence[tuple[str, str]]) -> Markup:
    """A list of names and values."""
    return element("dl", joined(joined([element("dt", name), element("dd", value)]) for name, value in pairs))
