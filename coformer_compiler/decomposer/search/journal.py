"""The search's journal: one JSON line per evaluated decomposition, appended and synced, read back on resume."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from coformer_compiler.decomposer.shapes import MaybeShape, MemberShape
from coformer_compiler.evaluator.latency import Latency
from coformer_compiler.evaluator.score import Score


@dataclass(frozen=True)
class Entry:
    """One evaluation; `score` is None for a point that fits no device."""

    point: tuple[float, ...]
    shapes: tuple[MaybeShape, ...]
    score: Score | None


def read_journal(path: Path) -> list[Entry]:
    """The finished lines; a last line that a kill cut short is dropped."""
    if not path.exists():
        return []
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entries.append(_entry(line))
        except (KeyError, TypeError, ValueError):
            break
    return entries


def open_journal(path: Path) -> list[Entry]:
    """The finished lines, with the file cut back to them, so that what is appended starts on a line of its own."""
    entries = read_journal(path)
    if entries:
        fresh = path.with_name(path.name + ".new")
        fresh.unlink(missing_ok=True)
        append(fresh, entries)
        fresh.replace(path)
    else:
        path.unlink(missing_ok=True)
    return entries


def append(path: Path, entries: Sequence[Entry]) -> None:
    """Add lines and make sure that they are on disk."""
    with path.open("a", encoding="utf-8") as file:
        for entry in entries:
            file.write(json.dumps(asdict(entry), sort_keys=True) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _entry(line: str) -> Entry:
    data = json.loads(line)
    shapes = tuple(
        None
        if shape is None
        else MemberShape(
            shape["embed"],
            {int(layer): count for layer, count in shape["heads"].items()},
            {int(layer): count for layer, count in shape["neurons"].items()},
        )
        for shape in data["shapes"]
    )
    score = data["score"]
    if score is not None:
        timed = score.pop("latency")
        latency = Latency(
            tuple(timed["compute_ms"]), tuple(timed["arrival_ms"]), timed["aggregate_ms"], timed["total_ms"]
        )
        score = Score(**score, latency=latency)
    return Entry(tuple(data["point"]), shapes, score)
