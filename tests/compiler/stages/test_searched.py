"""What is told of a search: what was shrunk, and the other searches of the same cache."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coformer_compiler.decomposer.policy import teacher_shape
from coformer_compiler.decomposer.search.encoding import Encoding
from coformer_compiler.decomposer.search.journal import Entry
from coformer_compiler.decomposer.search.space import Space
from coformer_compiler.decomposer.shapes import member_cost
from coformer_compiler.device import Device
from coformer_compiler.evaluator.latency import Latency, Network
from coformer_compiler.evaluator.score import Score
from coformer_compiler.report.write import read_report
from coformer_compiler.stages.searched import shrunk_in
from coformer_targets import load_target
from tests.compiler.tiny import tiny_spec
from tests.end_to_end.conftest import tiny
from tests.end_to_end.tiny import SEARCH, TINY, coformerc

__all__ = ["tiny"]

TEACHER = tiny_spec(embed=32, neurons=64, heads=4, head_dim=8, layers=3, image=(8, 8))


def space_of(**limits: float) -> Space:
    """A space of two devices, the second one with limits of its own."""
    target = load_target("cpu")
    attic = Device("attic", target, 10.0, 512.0, central=True)
    hall = replace(Device("hall", target, 10.0, 512.0), **limits)
    encoding = Encoding(teacher_shape(TEACHER), (attic, hall), (1.0,) * 3, False)
    return Space(encoding, TEACHER, Network(), shortcuts=True)


def entry_at(space: Space, point: np.ndarray) -> Entry:
    """An evaluation of the shapes that the point has in this space."""
    shapes = space.shapes(point)
    assert isinstance(shapes, tuple)
    score = Score(0.0, 0.0, 0.0, Latency((), (), 0.0, 0.0), 0.0)
    return Entry(tuple(point.tolist()), shapes, score)


def test_a_searched_policy_that_was_shrunk_says_onto_what() -> None:
    point = np.full(12, 0.5)
    free = space_of()
    assert shrunk_in(free, entry_at(free, point)) == []
    drawn = free.encoding.decode(point, (1.0, 1.0))
    assert drawn[1] is not None
    work = member_cost(TEACHER, drawn[1], shortcuts=True).flops / 1e9
    tight = space_of(max_gflop=0.9 * work)
    assert shrunk_in(tight, entry_at(tight, point)) == ["'hall' was shrunk until C5 held"]
    arrival = free.latencies([drawn]).arrival_ms[1, 0]
    late = space_of(deadline_ms=0.99 * float(arrival))
    assert shrunk_in(late, entry_at(late, point)) == ["'hall' was shrunk until its deadline held"]


@pytest.mark.slow
def test_a_report_shows_the_other_searches_of_its_cache(tiny: Path, tmp_path: Path) -> None:
    shutil.copy(tiny / "teacher.safetensors", tmp_path)
    config, out = tmp_path / "tiny.toml", tmp_path / "out"
    config.write_text(
        TINY.replace('target = "raspberry-pi-4b"', 'target = "raspberry-pi-4b"\nmax_gflop = 1e-5') + SEARCH
    )
    assert coformerc("search", config, "-o", out, "--strategy", "debo-paper").code == 0
    assert coformerc("search", config, "-o", out, "--strategy", "random", "--pick", "fastest").code == 0
    outcome = coformerc("build", config, "-o", out, "--steps", "0")
    assert outcome.code == 0, outcome.err
    search = read_report(out / "report.json").search
    assert search is not None and search.estimated
    # The paper's strategy minimises another loss; here it is shown by this search's objective. The one that was only
    # picked from otherwise is the same search, and not shown twice.
    assert [other.strategy for other in search.others] == ["debo-paper"]
    starts = [each.objective for each in search.evaluations[:2]]
    assert list(search.others[0].objectives[:2]) == pytest.approx(starts)
    page = (out / "report.html").read_text()
    assert "debo-paper: " in page and "Which limit binds" in page and "ms estimated" in page
    report = read_report(out / "report.json")
    notes = [note.text for note in report.notes]
    assert "'hall' was shrunk until C5 held" in notes  # which is central, and always takes part
    assert {device.name: device.max_gflop for device in report.devices}["hall"] == 1e-5
