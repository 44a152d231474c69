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
from coformer_runtime.errors import CoformerError

FORMAT = "coformer-journal/1"


@dataclass(frozen=True)
class Origin:
    """What a journal's evaluations belong to; digests, or canonical texts.

    Attributes:
        teacher: the model.
        data: the samples, and how many of them.
        devices: the cluster and its network.
        objective: what Ψ counts, δ included.
    """

    teacher: str
    data: str
    devices: str
    objective: str


@dataclass(frozen=True)
class Entry:
    """One evaluation."""

    point: tuple[float, ...]
    shapes: tuple[MaybeShape, ...]
    score: Score


def read_journal(path: Path) -> list[Entry]:
    """The finished lines; a last line that a kill cut short is dropped."""
    return _read(path)[1]


def open_journal(path: Path, origin: Origin, stops: Sequence[int]) -> list[Entry]:
    """The finished lines, with the file cut back to them, so that what is appended starts on a line of its own.

    Args:
        path: of the journal.
        origin: what it has to belong to.
        stops: numbers of entries, 0 among them, that may be kept: the most of them that there are.

    Raises:
        CoformerError: if the journal is of another model, data set, cluster or objective.
    """
    header, entries = _read(path)
    if header is not None:
        for field, name in (
            ("teacher", "model"),
            ("data", "data set"),
            ("devices", "cluster"),
            ("objective", "objective"),
        ):
            if header.get(field) != getattr(origin, field):
                raise CoformerError(
                    f"its evaluations are of another {name}",
                    f"search journal {path}",
                    "search without it, or with what it was made for",
                )
    entries = entries[: max(stop for stop in stops if stop <= len(entries))]
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(json.dumps({"format": FORMAT, **asdict(origin)}, sort_keys=True) + "\n", encoding="utf-8")
    append(fresh, entries)
    fresh.replace(path)
    return entries


def spent_seconds(path: Path) -> float:
    """What a journal's search has taken so far, over all interruptions; 0 where nobody kept it.

    Raises:
        CoformerError: if the file beside the journal holds something else.
    """
    beside = _spent(path)
    if not beside.exists():
        return 0.0
    try:
        return float(beside.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CoformerError(
            "holds no seconds", f"search's spent time {beside}", "delete it: the time budget begins anew"
        ) from error


def keep_spent(path: Path, seconds: float) -> None:
    """Write down what the search has taken; the file beside the journal appears whole."""
    beside = _spent(path)
    fresh = beside.with_name(beside.name + ".new")
    fresh.write_text(f"{seconds!r}\n", encoding="utf-8")
    fresh.replace(beside)


def _spent(path: Path) -> Path:
    return path.with_name(path.name + ".spent")


def append(path: Path, entries: Sequence[Entry]) -> None:
    """Add lines and make sure that they are on disk."""
    with path.open("a", encoding="utf-8") as file:
        for entry in entries:
            file.write(json.dumps(asdict(entry), sort_keys=True) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path) -> tuple[dict[str, str] | None, list[Entry]]:
    if not path.exists():
        return None, []
    lines = path.read_text(encoding="utf-8").splitlines()
    try:
        header = json.loads(lines[0])
        if header["format"] != FORMAT:
            raise ValueError(header["format"])
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise CoformerError(
            "not a search's journal", f"search journal {path}", "name the journal.jsonl that a search wrote"
        ) from error
    entries = []
    for line in lines[1:]:
        try:
            entries.append(_entry(line))
        except (KeyError, TypeError, ValueError):
            break
    return header, entries


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
    timed = score.pop("latency")
    latency = Latency(tuple(timed["compute_ms"]), tuple(timed["arrival_ms"]), timed["aggregate_ms"], timed["total_ms"])
    return Entry(tuple(data["point"]), shapes, Score(**score, latency=latency))
