"""`coformerc search`: the policy search of a build, alone; a build of the same configuration finds it in the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coformer_compiler.compile import search_only
from coformer_compiler.config import BuildConfig
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
    entries, preflight, estimated = search_only(config, out, progress)
    chosen = picked(entries, config.search.pick)
    names = [device.name for device in config.devices]
    front = [_row(entry, names) | {"picked": entry is chosen} for entry in pareto_front(entries)]
    return {
        "strategy": config.policy.strategy,
        "evaluated": len(entries),
        "feasible_share": preflight.fits,
        "feasible_share_shrunk": preflight.fits_shrunk,
        "binding": preflight.binding,
        "pick": config.search.pick,
        "picked": _row(chosen, names),
        "front": front,
        "estimated": estimated,
        "policy": str(out / "policy.json"),
        "journal": str(out / "journal.jsonl"),
    }


def search_text(found: dict[str, Any]) -> str:
    """The front as a table, the picked policy marked."""
    lines = [
        f"{found['strategy']}: {found['evaluated']} policies; {found['feasible_share']:.0%} of the space fits as drawn",
        *(f"  {share:.0%} break {constraint}" for constraint, share in found["binding"].items()),
        "",
        f"  {'loss':>8} {'ms, est.' if found['estimated'] else 'ms':>9} {'mJ, est.':>9}  members",
    ]
    rows = found["front"] if any(row["picked"] for row in found["front"]) else [*found["front"], found["picked"]]
    for row in rows:
        members = ", ".join(f"{m['device']} {m['layers']} x {m['embed']}" for m in row["members"])
        mark = ">" if row.get("picked", True) else " "
        lines.append(f"{mark} {row['loss']:8.4f} {row['latency_ms']:9.3f} {row['energy_mj']:9.1f}  {members}")
    return "\n".join([*lines, "", f"> picked ({found['pick']}): {found['policy']}"])


def _row(entry: Entry, devices: list[str]) -> dict[str, Any]:
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
            }
            for name, shape in zip(devices, entry.shapes, strict=True)
            if shape is not None
        ],
    }
