"""The CSV of measured points: what is written is read again, and what is damaged is named."""

import math
from pathlib import Path
from typing import List, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coformer_runtime.errors import CoformerError
from coformer_runtime.profile_points import (
    COLUMNS,
    MeasuredPoint,
    Provenance,
    Shape,
    append_point,
    drop_torn_line,
    points_at_one_speed,
    read_points,
    stable_points,
    write_csv,
)

PROVENANCE = Provenance(
    "ab" * 32, "cpu", "onnxruntime", "1.32.0", "float32", "a board, 4 cores", 1, "wall", "", "tiny", {"layers": 3}
)
NUMBERS = st.floats(1e-6, 1e6)


@st.composite
def points(draw: st.DrawFn) -> Tuple[MeasuredPoint, ...]:
    made: List[MeasuredPoint] = []
    for number in range(draw(st.integers(0, 5))):
        layers = tuple(sorted(draw(st.sets(st.integers(0, 30), min_size=1, max_size=4))))
        counts = st.lists(st.integers(1, 5000), min_size=len(layers), max_size=len(layers)).map(tuple)
        shape = Shape(draw(st.integers(1, 2000)), layers, draw(counts), draw(counts), draw(st.booleans()))
        made.append(
            MeasuredPoint(
                "graphs/{}.onnx".format(number), shape, draw(NUMBERS), draw(st.floats(0, 9)), draw(st.floats(0, 9)),
                draw(NUMBERS), 50, draw(st.integers(1, 4)), draw(st.booleans()),
                draw(st.none() | st.floats(-40, 120)),
            )
        )  # fmt: skip
    return tuple(made)


def same(found: MeasuredPoint, wanted: MeasuredPoint) -> bool:
    exact = ("graph", "shape", "runs", "attempts", "stable")
    near = {"median_ms": 1e-5, "reference_ms": 1e-5, "spread": 1e-3, "drift": 1e-3, "temperature_c": 1e-1}
    ours, theirs = found._asdict(), wanted._asdict()
    return all(ours[key] == theirs[key] for key in exact) and all(
        ours[key] is theirs[key] or math.isclose(ours[key], theirs[key], rel_tol=near[key], abs_tol=near[key] / 2)
        for key in near
    )


@given(wanted=points())
def test_points_survive_the_file(tmp_path_factory: pytest.TempPathFactory, wanted: Tuple[MeasuredPoint, ...]) -> None:
    path = str(tmp_path_factory.mktemp("csv") / "points.csv")
    write_csv(path, PROVENANCE)
    for point in wanted:
        append_point(path, point)
    found = read_points(path)
    assert found.provenance == PROVENANCE
    assert len(found.points) == len(wanted) and all(map(same, found.points, wanted))
    write_csv(path, PROVENANCE, found.points)
    assert read_points(path) == found


@given(wanted=points(), cut=st.integers(0, 10**6))
def test_a_torn_line_is_dropped_and_no_other(
    tmp_path_factory: pytest.TempPathFactory, wanted: Tuple[MeasuredPoint, ...], cut: int
) -> None:
    path = tmp_path_factory.mktemp("csv") / "points.csv"
    write_csv(str(path), PROVENANCE)
    begun = path.stat().st_size
    for point in wanted:
        append_point(str(path), point)
    content = path.read_bytes()
    kept = begun + cut % (len(content) - begun + 1)
    path.write_bytes(content[:kept])
    drop_torn_line(str(path))
    assert len(read_points(str(path)).points) == content[begun:kept].count(b"\n")


GOOD = "graphs/0.onnx,8,0 2,1 2,8 16,1,2.5,0.01,0.01,1.0,50,1,1,"


def refusal(tmp_path: Path, lines: List[str], head: bool = True) -> str:
    path = tmp_path / "points.csv"
    write_csv(str(path), PROVENANCE)
    old = path.read_text().splitlines()
    path.write_text("\n".join((old if head else []) + lines) + "\n")
    with pytest.raises(CoformerError) as caught:
        read_points(str(path))
    return str(caught.value).replace(str(path), "CSV")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("2.5", "nan", "CSV, line 3: median_ms is 'nan', no number of at least 1e-09; remove the line"),
        ("2.5", "", "CSV, line 3: median_ms is '', no number"),
        ("2.5", "-1", "CSV, line 3: median_ms is '-1', no number of at least 1e-09"),
        ("2.5", "inf", "CSV, line 3: median_ms is 'inf', no number"),
        ("0 2", "0 x", "CSV, line 3: layers is '0 x', no list of numbers"),
        ("1 2,", "1,", "CSV, line 3: it has 2 layers, 1 heads and 2 neurons"),
        (",50", "", "CSV, line 3: it has 13 values, there are 14 columns"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert refusal(tmp_path, [GOOD.replace(old, new, 1)]).startswith(told)


def test_a_graph_that_comes_twice_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path, [GOOD, GOOD]).startswith(
        "CSV, line 4: 'graphs/0.onnx' was measured in line 3 already; remove one of the two lines"
    )


def test_missing_columns_are_named(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    write_csv(str(path), PROVENANCE)
    path.write_text(path.read_text().replace(",median_ms,spread", ""))
    with pytest.raises(CoformerError, match=r"the columns median_ms, spread are missing; measure again"):
        read_points(str(path))


def test_a_table_of_somebody_else_is_refused(tmp_path: Path) -> None:
    told = refusal(tmp_path, [",".join(COLUMNS), GOOD], head=False)
    assert told.startswith("CSV: its first line does not say what it was measured on")


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    write_csv(str(path), PROVENANCE)
    path.write_text(path.read_text().replace("coformer-profile/1", "coformer-profile/9"))
    with pytest.raises(CoformerError, match=r"the format is 'coformer-profile/9', this version reads"):
        read_points(str(path))


def test_points_of_a_slow_spell_are_not_stable() -> None:
    shape = Shape(8, (0,), (1,), (8,), True)
    made = [MeasuredPoint(str(n), shape, 1.0, 0.0, 0.0, slow, 50, 1, True) for n, slow in enumerate([1.29, 1.31, 1.0])]
    assert [point.graph for point in stable_points(made)] == ["0", "2"]
    assert stable_points([made[0]._replace(stable=False)]) == []


def test_a_machine_that_was_slow_for_a_while_is_taken_out_of_the_points() -> None:
    shape = Shape(8, (0,), (1,), (8,), True)
    made = [
        MeasuredPoint(str(n), shape, median, 0.0, 0.0, slow, 50, 1, True)
        for n, (median, slow) in enumerate([(4.0, 1.0), (2.0, 1.25), (3.0, 1.1)])
    ]
    assert [point.median_ms for point in points_at_one_speed(made)] == pytest.approx([4.4, 1.76, 3.0])
    assert points_at_one_speed([]) == []
