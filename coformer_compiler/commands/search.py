"""`coformerc search`: the policy search of a build, alone; a build of the same configuration finds it in the cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from coformer_compiler.compile import search_only
from coformer_compiler.config import BuildConfig
from coformer_compiler.decomposer.search.alternatives import Alternatives
from coformer_compiler.decomposer.search.front import pareto_front, picked
from coformer_compiler.decomposer.search.journal import Entry
from coformer_compiler.decomposer.strategies import SEARCHES
from coformer_compiler.progress import Progress
from coformer_runtime.errors import CoformerError


def search_config(config: BuildConfig, out: Path, progress: Progress) -> dict[str, Any]:
    """Search, write policy.json and journal.jsonl into `out`, and describe front and pick as JSON values.

    Raises:
        CoformerError: if the strategy does not search, or the search cannot run.
    """
    if config.policy.strategy not in SEARCHES:
        raise CoformerError(
            f"the strategy '{config.policy.strategy}' evaluates nothing",
            "policy.strategy",
            f"choose one of {', '.join(SEARCHES)} (--strategy)",
        )
    entries, preflight, estimated, told, notes = search_only(config, out, progress)
    chosen = picked(entries, config.search.pick)
    names = [device.name for device in config.devices]
    numbered = {id(entry): number for number, entry in enumerate(entries, 1)}
    front = [
        {"number": numbered[id(entry)], **_row(entry, names), "picked": entry is chosen}
        for entry in pareto_front(entries)
    ]
    found = {
        "strategy": config.policy.strategy,
        "in_place_of": config.replaced,
        "evaluated": len(entries),
        "feasible_share": preflight.fits,
        "feasible_share_shrunk": preflight.fits_shrunk,
        "binding": preflight.binding,
        "pick": config.search.pick,
        "picked": {"number": numbered[id(chosen)], **_row(chosen, names)},
        "front": front,
        "estimated": estimated,
        "notes": list(notes),
        "policy": str(out / "policy.json"),
        "journal": str(out / "journal.jsonl"),
    }
    return found if told is None else {**found, "alternatives": alternatives_json(told, entries, names)}


def alternatives_json(told: Alternatives, entries: Sequence[Entry], names: list[str]) -> dict[str, Any]:
    """The policies for `network.bandwidths` as JSON values."""
    return {
        "bandwidths_mbps": list(told.bandwidths),
        "built": [
            {
                "name": each.name,
                "loss": entries[each.number].score.loss,
                "latency_ms": list(each.latency_ms),
                "members": _row(entries[each.number], names)["members"],
            }
            for each in told.built
        ],
        "ranges": [asdict(each) for each in told.ranges],
    }


def alternatives_text(told: dict[str, Any], estimated: bool) -> list[str]:
    """One line per policy: loss, latency at each bandwidth, and the rates that it is for."""
    word = "ms, est.," if estimated else "ms"
    heads = "".join(f"{f'{mbps:g}':>9}" for mbps in told["bandwidths_mbps"])
    lines = ["", f"  {'loss':>8}{heads}  {word} at these Mbit/s"]
    for number, each in enumerate(told["built"]):
        ranges = " and ".join(
            f"{found['from_mbps']:.3g} to {found['to_mbps']:.3g}"
            if found["to_mbps"] is not None
            else f"from {found['from_mbps']:.3g}"
            for found in told["ranges"]
            if found["alternative"] == number
        )
        times = "".join(f"{ms:9.3f}" for ms in each["latency_ms"])
        members = ", ".join(f"{m['device']} {m['layers']} x {m['embed']}" for m in each["members"])
        lines.append(f"  {each['loss']:8.4f}{times}  {each['name']}: {ranges} Mbit/s; {members}")
    return lines


def search_text(found: dict[str, Any]) -> str:
    """The front as a table, the picked policy marked, and what gave way for that one."""
    lines = [
        f"{found['strategy']}: {found['evaluated']} policies; {found['feasible_share']:.0%} of the space fits as "
        f"drawn, {found['feasible_share_shrunk']:.0%} after shrinking",
        *(f"  {share:.0%} break {constraint}" for constraint, share in found["binding"].items()),
    ]
    if found["in_place_of"] is not None:
        lines.append(
            f"The configuration's strategy '{found['in_place_of']}' evaluates nothing, so '{found['strategy']}' "
            f"searched; `coformerc build --strategy {found['strategy']}` builds what it picked."
        )
    latency = "ms, est." if found["estimated"] else "ms"
    lines += [
        "",
        "beaten by none in loss, latency and energy at once, the fastest first:",
        f"  {'number':>6} {'objective':>9} {'loss, nats':>10} {latency:>9} {'mJ, est.':>9}  layers x embed",
    ]
    rows = found["front"] if any(row["picked"] for row in found["front"]) else [*found["front"], found["picked"]]
    for row in rows:
        members = ", ".join(f"{m['device']} {m['layers']} x {m['embed']}" for m in row["members"])
        mark = ">" if row.get("picked", True) else " "
        lines.append(
            f"{mark} {row['number']:6} {row['objective']:9.4f} {row['loss']:10.4f} {row['latency_ms']:9.3f} "
            f"{row['energy_mj']:9.1f}  {members}"
        )
    if "alternatives" in found:
        lines += alternatives_text(found["alternatives"], found["estimated"])
    notes = [f"note: {note}" for note in found["notes"]]
    return "\n".join([*lines, "", f"> picked ({found['pick']}): {found['policy']}", *notes])


def _row(entry: Entry, devices: list[str]) -> dict[str, Any]:
    kept = [(name, shape) for name, shape in zip(devices, entry.shapes, strict=True) if shape is not None]
    return {
        "objective": entry.score.objective,
        "loss": entry.score.loss,
        "members_loss": entry.score.members_loss,
        "latency_ms": entry.score.latency.total_ms,
        "energy_mj": entry.score.energy_mj,
        "members": [
            {
                "device": name,
                "layers": len(shape.heads),
                "embed": shape.embed,
                "heads": list(shape.heads.values()),
                "neurons": list(shape.neurons.values()),
                "compute_ms": compute,
                "arrival_ms": arrival,
            }
            for (name, shape), compute, arrival in zip(
                kept, entry.score.latency.compute_ms, entry.score.latency.arrival_ms, strict=True
            )
        ],
    }
