"""Measured points as CSV: written on the board line by line, read by the compiler.

The first line is a comment with JSON: on what the points were measured. A line is written by one call, so that a
measurement that is interrupted leaves whole lines, but for the last one, which is dropped when it goes on.
"""

import json
import math
import os
import re
from typing import Any, Dict, Iterable, List, NamedTuple, Sequence, Tuple

from .errors import CoformerError
from .manifest_fields import Fields, parse_json

FORMAT = "coformer-profile/1"
COLUMNS = (
    "graph",
    "embed",
    "layers",
    "heads",
    "neurons",
    "shortcuts",
    "median_ms",
    "spread",
    "drift",
    "reference_ms",
    "runs",
    "attempts",
    "stable",
    "temperature_c",
)
SLOWER = 0.3
"""How much slower than at its best the reference may be, as a part of its best; up to there graphs slow alike."""
_MEASURE_AGAIN = "measure again with 'coformer-node profile', into a new file"
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Shape(NamedTuple):
    """Shape of a member: `heads` and `neurons` of each of the teacher's layers that it keeps, in their order."""

    embed: int
    layers: Tuple[int, ...]
    heads: Tuple[int, ...]
    neurons: Tuple[int, ...]
    shortcuts: bool


class Provenance(NamedTuple):
    """On what points were measured; points of unlike provenance are never mixed.

    Attributes:
        pack: SHA-256 of the pack's manifest.
        target: the target that the graphs were made legal for.
        engine: kind of engine.
        engine_version: the version that ran.
        precision: what the engine computes in.
        board: what the machine calls itself.
        threads: of one inference.
        clock: "wall", or "cpu" for the processor time of the measuring process.
        power_mode: the board's power mode or governor; "" where it tells none.
        model: name of the teacher.
        spec: the teacher's shapes as the compiler wrote them into the pack.
    """

    pack: str
    target: str
    engine: str
    engine_version: str
    precision: str
    board: str
    threads: int
    clock: str
    power_mode: str
    model: str
    spec: Dict[str, Any]


class MeasuredPoint(NamedTuple):
    """One graph's latency.

    Attributes:
        graph: its path in the pack.
        shape: of the member.
        median_ms: of `runs` runs after the warm-up, each in units of the reference's around it, times `reference_ms`.
        spread: interquartile range as a part of the median.
        drift: how far the medians of the two halves of the runs are apart, as a part of the median.
        reference_ms: median of the runs of the pack's reference graph that were made in between.
        runs: how many runs.
        attempts: how often it was measured until it was stable, or given up.
        stable: whether spread, drift and the reference are within the gate.
        temperature_c: of the hottest sensor afterwards; None where the machine tells none.
    """

    graph: str
    shape: Shape
    median_ms: float
    spread: float
    drift: float
    reference_ms: float
    runs: int
    attempts: int
    stable: bool
    temperature_c: Any = None


class Points(NamedTuple):
    """A whole file."""

    provenance: Provenance
    points: Tuple[MeasuredPoint, ...]


def stable_points(points: Sequence[MeasuredPoint]) -> List[MeasuredPoint]:
    """Return those that were stable while the machine was about as fast as at its best, which the whole file tells."""
    best_ms = min([point.reference_ms for point in points] or [0.0])
    return [point for point in points if point.stable and point.reference_ms <= (1 + SLOWER) * best_ms]


def points_at_one_speed(points: Sequence[MeasuredPoint]) -> List[MeasuredPoint]:
    """Return the points as they were had the machine always been as fast as in the middle of its time."""
    ordered = sorted(point.reference_ms for point in points)
    if not ordered:
        return []
    usual_ms = ordered[len(ordered) // 2]
    return [
        point._replace(median_ms=point.median_ms * usual_ms / point.reference_ms, reference_ms=usual_ms)
        for point in points
    ]


def write_csv(path: str, provenance: Provenance, points: Iterable[MeasuredPoint] = ()) -> None:
    """Write a new file, by default without points; it appears whole."""
    document = {"format": FORMAT}
    document.update(provenance._asdict())
    lines = ["# " + json.dumps(document, sort_keys=True), ",".join(COLUMNS)] + [_line(point) for point in points]
    text = "\n".join(lines) + "\n"
    part = path + ".part"
    with open(part, "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(part, path)


def append_point(path: str, point: MeasuredPoint) -> None:
    """Append one line, by one call."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(handle, (_line(point) + "\n").encode("ascii"))
    finally:
        os.close(handle)


def _line(point: MeasuredPoint) -> str:
    shape = point.shape
    temperature = "" if point.temperature_c is None else "{:.1f}".format(point.temperature_c)
    fields = [point.graph, str(shape.embed)]
    fields += [" ".join(str(number) for number in numbers) for numbers in (shape.layers, shape.heads, shape.neurons)]
    fields += [str(int(shape.shortcuts)), "{:.6g}".format(point.median_ms)]
    fields += ["{:.4f}".format(point.spread), "{:.4f}".format(point.drift), "{:.6g}".format(point.reference_ms)]
    fields += [str(point.runs), str(point.attempts)]
    return ",".join(fields + [str(int(point.stable)), temperature])


def drop_torn_line(path: str) -> None:
    """Cut off a last line without its end: what a killed measurement may leave."""
    with open(path, "rb+") as stream:
        content = stream.read()
        whole = content.rfind(b"\n") + 1
        if whole != len(content):
            stream.truncate(whole)


def read_points(path: str) -> Points:
    """Read a whole file.

    Raises:
        CoformerError: it cannot be read, is of another format, lacks a column, or a line has no number where one
            belongs, a latency that is none, or a graph that came before; names the line.
    """
    try:
        with open(path, "rb") as stream:
            text = stream.read().decode("utf-8", "replace")
    except OSError as error:
        raise CoformerError(
            "cannot be read ({})".format(error.strerror), path, "give a file of 'coformer-node profile'"
        ) from error
    lines = text.splitlines()
    if not lines or not lines[0].startswith("# "):
        raise CoformerError(
            "its first line does not say what it was measured on",
            path,
            "give a file as 'coformer-node profile' wrote it, with its first line",
        )
    provenance = _provenance(lines[0][2:], path)
    columns = _columns(lines[1] if len(lines) > 1 else "", path)
    return Points(provenance, tuple(_points(lines[2:], columns, path)))


def _columns(line: str, path: str) -> List[str]:
    columns = line.split(",")
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        raise CoformerError("the columns {} are missing".format(", ".join(missing)), path, _MEASURE_AGAIN)
    if len(set(columns)) != len(columns):
        raise CoformerError("a column appears twice", path, _MEASURE_AGAIN)
    return columns


def _points(lines: Iterable[str], columns: List[str], path: str) -> Iterable[MeasuredPoint]:
    seen: Dict[str, int] = {}
    for number, line in enumerate(lines, 3):
        where = "{}, line {}".format(path, number)
        values = line.split(",")
        if len(values) != len(columns):
            raise CoformerError(
                "it has {} values, there are {} columns".format(len(values), len(columns)),
                where,
                "remove the line, and go on with 'coformer-node profile'",
            )
        point = _point(dict(zip(columns, values)), where)
        if point.graph in seen:
            raise CoformerError(
                "'{}' was measured in line {} already".format(point.graph, seen[point.graph]),
                where,
                "remove one of the two lines",
            )
        seen[point.graph] = number
        yield point


def _point(row: Dict[str, str], where: str) -> MeasuredPoint:
    def number(key: str, least: float) -> float:
        try:
            value = float(row[key])
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= least):
            raise CoformerError(
                "{} is '{}', no number of at least {:g}".format(key, row[key], least),
                where,
                "remove the line, and go on with 'coformer-node profile'",
            )
        return value

    def integers(key: str) -> Tuple[int, ...]:
        words = row[key].split(" ")
        if not all(word.isdigit() for word in words):
            raise CoformerError(
                "{} is '{}', no list of numbers".format(key, row[key]), where, "remove the line, and measure it again"
            )
        return tuple(int(word) for word in words)

    layers, heads, neurons = integers("layers"), integers("heads"), integers("neurons")
    if not len(layers) == len(heads) == len(neurons):
        raise CoformerError(
            "it has {} layers, {} heads and {} neurons".format(len(layers), len(heads), len(neurons)),
            where,
            "remove the line, and measure it again",
        )
    return MeasuredPoint(
        row["graph"],
        Shape(int(number("embed", 1)), layers, heads, neurons, number("shortcuts", 0) > 0),
        number("median_ms", 1e-9),
        number("spread", 0),
        number("drift", 0),
        number("reference_ms", 1e-9),
        int(number("runs", 1)),
        int(number("attempts", 1)),
        number("stable", 0) > 0,
        number("temperature_c", -273) if row["temperature_c"] else None,
    )


def _provenance(text: str, path: str) -> Provenance:
    top = Fields(parse_json(text, path), path, "", _MEASURE_AGAIN)
    found = top.text("format")
    if found != FORMAT:
        raise CoformerError("the format is '{}', this version reads '{}'".format(found, FORMAT), path, _MEASURE_AGAIN)
    provenance = Provenance(
        top.matching("pack", _SHA256, "a SHA-256 in lower-case hex"),
        top.text("target"),
        top.text("engine"),
        top.text("engine_version"),
        top.text("precision"),
        top.text("board"),
        top.integer("threads", 1),
        top.text("clock"),
        str(top.take("power_mode")),
        top.text("model"),
        top.take("spec"),
    )
    top.finish()
    return provenance
