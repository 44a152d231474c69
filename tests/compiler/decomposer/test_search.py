"""The search: encoding, surrogate, journal and loop, on an evaluator whose best answer is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coformer_compiler.decomposer.policy import TeacherShape
from coformer_compiler.decomposer.search import search as search_module
from coformer_compiler.decomposer.search.encoding import Encoding, stick_breaking, sticks_of
from coformer_compiler.decomposer.search.journal import read_journal
from coformer_compiler.decomposer.search.search import SearchOptions, best_of, pareto_front, search
from coformer_compiler.decomposer.search.surrogate import pool_around, propose
from coformer_compiler.device import Device
from coformer_compiler.evaluator.latency import Latency
from coformer_compiler.evaluator.score import Score
from coformer_compiler.progress import SilentProgress
from coformer_runtime.errors import CoformerError
from coformer_targets import load_target

SHAPE = TeacherShape(6, 96, (6,) * 6, (384,) * 6)
INFLUENCE = (0.5, 0.1, 0.4, 0.3, 0.2, 0.6)


def devices(count: int) -> tuple[Device, ...]:
    target = load_target("cpu")
    return tuple(Device(str(n), target, 10.0 + n, 500.0, None, n == 0) for n in range(count))


def encoding(count: int = 3, *, overlap: bool = False) -> Encoding:
    return Encoding(SHAPE, devices(count), INFLUENCE, overlap)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_sticks_and_shares_are_inverse(values: list[float]) -> None:
    shares = stick_breaking(values)
    assert all(share >= 0 for share in shares)
    assert sum(shares) <= 1 + 1e-9
    assert stick_breaking(sticks_of(shares)) == pytest.approx(shares, abs=1e-6)


def test_uniform_numbers_give_uniform_shares() -> None:
    random = np.random.default_rng(0)
    shares = np.array([stick_breaking(random.random(3)) for _ in range(4000)])
    # Uniform on the simplex of four parts: each has mean 1/4 and variance 3/80.
    assert shares.mean(0) == pytest.approx([0.25] * 3, abs=0.01)
    assert shares.var(0) == pytest.approx([3 / 80] * 3, abs=0.004)


@settings(max_examples=200)
@given(st.integers(1, 4), st.data())
def test_every_point_fulfils_the_sums(count: int, data: st.DataObject) -> None:
    code = encoding(count)
    point = np.array(data.draw(st.lists(st.floats(0, 1), min_size=code.dimensions, max_size=code.dimensions)))
    shapes = code.decode(point, [1.0] * count)
    assert sum(shape.embed for shape in shapes) <= SHAPE.embed
    for layer in range(SHAPE.layers):
        assert sum(shape.heads.get(layer, 0) for shape in shapes) <= 6
        assert sum(shape.neurons.get(layer, 0) for shape in shapes) <= 384
    for shape in shapes:
        assert 1 <= len(shape.heads) <= 6
        assert shape.heads.keys() == shape.neurons.keys()
        assert min(shape.heads.values()) >= 1
        assert min(shape.neurons.values()) >= 1


def test_the_least_influential_layers_go_first() -> None:
    code = encoding(1)
    point = np.array([0.9, 0.9, 0.9, 0.5, 0.5, 0.5])
    (shape,) = code.decode(point, [1.0])
    kept = set(shape.heads)
    assert kept < set(range(6))
    assert min(INFLUENCE[layer] for layer in kept) > max(INFLUENCE[layer] for layer in set(range(6)) - kept)


def test_starts_decode_to_their_shares() -> None:
    code = encoding(3)
    shapes = code.decode(code.point_of_shares([1 / 3] * 3), [1.0] * 3)
    assert [shape.embed for shape in shapes] == [32, 32, 32]
    assert all(set(shape.heads.values()) == {2} and set(shape.neurons.values()) == {128} for shape in shapes)


def test_a_tilt_moves_units_over_the_depth() -> None:
    code = encoding(1)
    point = code.point_of_shares([0.5])
    point[5] = 1.0
    neurons = list(code.decode(point, [1.0])[0].neurons.values())
    assert neurons == sorted(neurons)
    assert neurons[-1] > 2 * neurons[0]


def test_the_surrogate_goes_to_the_valley() -> None:
    pytest.importorskip("skopt")
    random = np.random.default_rng(0)
    valley = np.full(6, 0.7)
    points = list(random.random((12, 6)))
    for _ in range(24):
        points.append(propose(points, [float(np.square(p - valley).sum()) for p in points], random))
    best = min(float(np.square(p - valley).sum()) for p in points[12:])
    assert best < 0.2 * min(float(np.square(p - valley).sum()) for p in points[:12])


def test_the_pool_has_news_and_kin() -> None:
    random = np.random.default_rng(0)
    points = np.array([[0.2, 0.2], [0.9, 0.9]])
    pool = pool_around(points, np.array([0.0, 1.0]), random)
    assert pool.min() >= 0 and pool.max() <= 1
    assert np.abs(pool - points[0]).sum(1).min() < 0.05


class Valley:
    """Best where every member has the same width; latency is the widest member's."""

    def __init__(self) -> None:
        self.teacher, self.basis, self.calls = SimpleNamespace(spec=None), "per-norm", 0

    def score(self, shapes):
        self.calls += 1
        widths = [shape.embed for shape in shapes]
        loss = float(np.var(widths)) / 100 + (96 - sum(widths)) / 96
        latency = Latency((0.0,) * len(widths), (0.0,) * len(widths), 0.0, float(max(widths)))
        return Score(loss + 1e-3 * max(widths), loss, loss, latency, 1.0)


@pytest.fixture(autouse=True)
def _no_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_module, "excess", lambda *_, **__: None)


def run(tmp_path: Path, method: str, iterations: int, starts=(), name: str = "journal"):
    options = SearchOptions(iterations, 4, "debo" if method == "debo" else "random", 0)
    return search(encoding(), Valley(), starts, options, tmp_path / name, SilentProgress())


def test_it_is_never_worse_than_where_it_starts(tmp_path: Path) -> None:
    start = encoding().point_of_shares([1 / 3] * 3)
    entries = run(tmp_path, "random", 3, [start])
    assert entries[0].point == tuple(start)
    assert best_of(entries).score.objective <= entries[0].score.objective


def test_an_interrupted_search_goes_the_same_way(tmp_path: Path) -> None:
    pytest.importorskip("skopt")
    whole = run(tmp_path, "debo", 8, name="whole")
    journal = tmp_path / "cut"
    lines = (tmp_path / "whole").read_text().splitlines()
    journal.write_text("\n".join(lines[:5]) + "\n" + lines[5][:40])
    assert len(read_journal(journal)) == 5
    again = run(tmp_path, "debo", 8, name="cut")
    assert [entry.point for entry in again] == [entry.point for entry in whole]
    assert [entry.score for entry in again] == [entry.score for entry in whole]
    assert read_journal(journal) == again


def test_nothing_beats_the_front(tmp_path: Path) -> None:
    entries = run(tmp_path, "random", 30)
    front = pareto_front(entries)
    times = [entry.score.latency.total_ms for entry in front]
    losses = [entry.score.loss for entry in front]
    assert times == sorted(times)
    assert losses == sorted(losses, reverse=True)
    for entry in entries:
        assert any(
            f.score.loss <= entry.score.loss and f.score.latency.total_ms <= entry.score.latency.total_ms for f in front
        )


def test_devices_that_nothing_fits_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from coformer_compiler.decomposer.constraints import Excess

    broken = Excess("C6", "memory", 80.0, 10.0, "MB", "raise memory_mb of '0'")
    monkeypatch.setattr(search_module, "excess", lambda *_, **__: replace(broken))
    monkeypatch.setattr(search_module, "TRIES", 3)
    with pytest.raises(CoformerError, match=r"none of 3 random policies .* C6: it needs 80 MB of memory, there are 10"):
        run(tmp_path, "random", 1)
