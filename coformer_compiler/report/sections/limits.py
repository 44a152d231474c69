"""Which limit binds: how much of each constraint the built policy uses, and what is left."""

from __future__ import annotations

from dataclasses import dataclass

from coformer_compiler.report.blocks import Heading, body_row, device_name, section, share_bar, table_html
from coformer_compiler.report.kept import Kept, kept_from_policy
from coformer_compiler.report.markup import Markup
from coformer_compiler.report.numerals import Scale, percent_text, scale_for, scale_ms
from coformer_compiler.report.schema import Report

HEADINGS = (
    Heading("limit", class_=""),
    Heading("device", class_=""),
    Heading("left", "%"),
    Heading("", class_="roomy"),
    Heading("used"),
    Heading("of"),
    Heading("left"),
    Heading("made up of", class_="roomy"),
)


@dataclass(frozen=True)
class Limit:
    """A constraint of the built policy: `used` of `limit` in `unit`.

    Attributes:
        name: "C2, widths".
        member: whose; None where it is a sum over all devices.
        used: what the policy takes.
        limit: what there is.
        unit: of both.
        parts: what a sum is made up of, in the order of the devices.
    """

    name: str
    member: int | None
    used: float
    limit: float
    unit: str
    parts: tuple[int, ...] = ()

    @property
    def left(self) -> float:
        """Share of the limit that is not used."""
        return 1 - self.used / self.limit if self.limit else 0.0


def limits_html(report: Report) -> Markup:
    """The section: the tightest limit first."""
    found = limits_of(report)
    rows = [
        body_row(
            each.name,
            (
                "all together" if each.member is None else device_name(report, each.member),
                percent_text(each.left),
                share_bar(1 - each.left, each.member),
                scale_of(each).number(each.used),
                scale_of(each).quantity(each.limit),
                scale_of(each).number(each.limit - each.used),
                " + ".join(map(str, each.parts)),
            ),
            HEADINGS,
        )
        for each in found
    ]
    return section("Which limit binds", _lead(report, found), table_html(_caption(report), HEADINGS, rows))


def limits_of(report: Report) -> list[Limit]:
    """All constraints that there are a limit and a figure for, the tightest first."""
    found, kept = _sums(kept_from_policy(report.policy)), report.cost.members
    for n, (device, cost) in enumerate(zip(report.devices, kept, strict=True)):
        if device.max_gflop is not None:
            found.append(Limit("C5, work", n, cost.flops, 1e9 * device.max_gflop, "FLOP"))
        if cost.memory_bytes is not None:
            found.append(Limit("C6, memory", n, cost.memory_bytes, 1e6 * device.memory_mb, "B"))
        arrival = None if report.predicted_ms is None else report.predicted_ms.members[n].arrival
        if device.deadline_ms is not None and arrival is not None:
            found.append(Limit(f"deadline, {_word(report)}", n, arrival, device.deadline_ms, "ms"))
    return sorted(found, key=lambda each: each.left)


def _sums(kept: Kept) -> list[Limit]:
    """C2, and of C3 and C4 the layer that has the least left; none of those that sharing has dropped."""
    members = range(len(kept.embeds))
    total = sum(kept.embeds)
    found = [Limit("C2, widths", None, total, kept.embed, "", kept.embeds)] if total <= kept.embed else []
    for name, kind in (("C3, heads", "heads"), ("C4, neurons", "neurons")):
        layers = [(number, getattr(layer, kind)) for number, layer in enumerate(kept.layers) if getattr(layer, kind)]
        if not layers or any(len(who) > 1 for _, units in layers for who in units):
            continue
        counts = {n: [sum(m in who for who in units) for m in members] for n, units in layers}
        sizes = {n: len(units) for n, units in layers}
        tightest = min(sizes, key=lambda n: sizes[n] - sum(counts[n]))
        full = sum(sum(counts[n]) == sizes[n] for n in sizes)
        where = f"full in {full} of {len(sizes)} layers" if full else f"layer {tightest}"
        found.append(
            Limit(f"{name} ({where})", None, sum(counts[tightest]), sizes[tightest], "", tuple(counts[tightest]))
        )
    return found


def _lead(report: Report, found: list[Limit]) -> str:
    own = [each for each in found if each.member is not None]
    sums = [each.name.split(",")[0] for each in found if each.member is None and each.used == each.limit]
    text = f"Nothing is left of {' and '.join(sums)}. " if sums else ""
    if not own:
        return text.strip()
    each = own[0]
    assert each.member is not None
    name = report.devices[each.member].name
    return (
        f"{text}Of the devices' own limits {each.name} of '{name}' is the tightest: {percent_text(each.left)} % left."
    )


def _caption(report: Report) -> str:
    text = "What the built policy takes of each limit, the tightest first"
    if any(device.deadline_ms is not None for device in report.devices) and report.predicted_ms is not None:
        text += f"; arrivals are {_word(report)}"
    return text + ". A limit that nobody set is not listed."


def _word(report: Report) -> str:
    return "estimated" if report.predicted_ms is not None and report.predicted_ms.estimated else "predicted"


def scale_of(each: Limit) -> Scale:
    """How a limit's numbers are written."""
    if each.unit == "ms":
        return scale_ms([each.limit])
    return scale_for([each.limit], each.unit) if each.unit else Scale("", 1.0, 0)
