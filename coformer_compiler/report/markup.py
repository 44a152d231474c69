"""HTML and SVG text in which nothing unescaped can end up: every plain string is escaped on its way in."""

from __future__ import annotations

import re
from collections.abc import Iterable

Attribute = str | int | float | None

_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_VOID = {"meta", "br", "col"}


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def escaped(text: str) -> Markup:
    """`text` fit for HTML, SVG and quoted attributes; characters that XML cannot hold become U+FFFD."""
    if isinstance(text, Markup):
        return text
    text = _ILLEGAL.sub("\ufffd", text)
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"), ("'", "&#39;")):
        text = text.replace(character, entity)
    return Markup(text)


def joined(parts: Iterable[str], between: str = "") -> Markup:
    """The parts one after the other, each escaped unless it is markup."""
    return Markup(escaped(between).join(escaped(part) for part in parts))


def element(name: str, /, *children: str, **attributes: Attribute) -> Markup:
    """`<name attributes>children</name>`; `class_` is the attribute class, `data_d` is data-d, None leaves one out."""
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(_text(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID or not children:
        return Markup(f"<{name}{told}/>" if name in _VOID or name in _EMPTY else f"<{name}{told}></{name}>")
    return Markup(f"<{name}{told}>{joined(children)}</{name}>")


_EMPTY = {"rect", "line", "path", "circle", "polyline"}


def _text(value: Attribute) -> str:
    """Numbers short: three decimals at most."""
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".") if value else "0"
    return str(value)


def percent(share: float) -> str:
    """A share as an SVG length, "12.5%"."""
    return _text(100.0 * share) + "%"


def figure_svg(title: str, description: str, height: float, *children: str, class_: str = "") -> Markup:
    """An SVG as wide as its column and `height` px high, so that text keeps its size; lengths across are in per cent.

    `title` and `description` say in words what the picture shows.
    """
    return element(
        "svg",
        element("title", title),
        element("desc", description),
        *children,
        class_=class_ or None,
        role="img",
        width="100%",
        height=height,
        aria_label=f"{title}. {description}",
    )


def stretched(x: float, y: float, width: float, height: float, view: tuple[float, float], *children: str) -> Markup:
    """A nested SVG over the box (x and width as shares, y and height in px) whose contents count in `view` units."""
    return element(
        "svg",
        *children,
        x=percent(x),
        y=y,
        width=percent(width),
        height=height,
        viewBox=f"0 0 {_text(view[0])} {_text(view[1])}",
        preserveAspectRatio="none",
    )
