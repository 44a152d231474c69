"""The search: space, surrogate, journal, strategies and front, on an evaluator whose best answer is known."""

from __future__ import annotations

import functools
import io
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from coformer_compiler.decomposer.picks import check_pick
from coformer_compiler.decomposer.policy import teacher_shape
from coformer_compiler.decomposer.search import search as searching
from coformer_compiler.decomposer.search.encoding import Encoding
from coformer_compiler.decomposer.search.features import features_of
from coformer_compiler.decomposer.search.front import pareto_front, picked
from coformer_compiler.decomposer.search.journal import Entry, Origin, read_journal, spent_seconds
from coformer_compiler.decomposer.search.proposers import PROPOSERS
from coformer_compiler.decomposer.search.search import SearchOptions, best_of, search
from coformer_compiler.decomposer.search.space import Preflight, Shapes, Space
from coformer_compiler.decomposer.search.surrogate import _Model, mutations, pool_around
from coformer_compiler.decomposer.shapes import MemberShape, member_cost
from coformer_compiler.decomposer.strategies import SEARCHES
from coformer_compiler.device import Device
from coformer_compiler.evaluator.latency import Latency, Network
from coformer_compiler.evaluator.many import candidates_of
from coformer_compiler.evaluator.score import Score
from coformer_compiler.progress import RichProgress, SilentProgress
from coformer_runtime.errors import CoformerError
from coformer_targets import load_target
from tests.compiler.tiny import tiny_spec

SPEC = tiny_spec(embed=96, heads=6, head_dim=16, neurons=192, layers=3)
ORIGIN = Origin("teacher", "data", "devices", "objective")
DELTA_PER_MS = 0.02


def devices(count: int, **changes: float) -> tuple[Device, ...]:
    target = load_target("cpu")
    return tuple(
        replace(Device(str(n), target, 10.0 / (n + 1), 500.0, None, n == 0), **(changes if n == count - 1 else {}))
        for n in range(count)
    )


@functools.cache
def space_of(cluster: tuple[Device, ...], *, drop: bool = True) -> Space:
    encoding = Encoding(teacher_shape(SPEC), cluster, (0.3, 0.2, 0.1), False, drop)
    return Space(encoding, SPEC, Network(), shortcuts=True)


def score(shapes: Shapes) -> Score:
    """Best where members have certain shares of everything; latency is the widest member's."""
    kept = [shape for shape in shapes if shape is not None]
    found = np.zeros((3, 3))
    for n, shape in enumerate(sorted(kept, key=lambda shape: -shape.embed)):
        found[n] = shape.embed / 96, sum(shape.heads.values()) / 18, sum(shape.neurons.values()) / 576
    loss = float(0.01 + np.square(found - [[0.5, 0.2, 0.5], [0.3, 0.5, 0.1], [0.1, 0.2, 0.3]]).sum())
    latency = Latency((0.0,), (0.0,), 0.0, float(found.max()))
    return Score(loss + DELTA_PER_MS * latency.total_ms, loss, 2 * loss, latency, float(found.sum()))


def run(
    tmp_path: Path, strategy: str, iterations: int, *, seed: int = 0, name: str = "journal", batch: int = 1
) -> list[Entry]:
    space = space_of(devices(3))
    start = space.encoding.point_of_shares([1 / 3] * 3)
    options = SearchOptions(iterations, 4, strategy, seed, batch)
    return search(
        space,
        lambda many: [score(shapes) for shapes in many],
        DELTA_PER_MS,
        [start],
        options,
        tmp_path / name,
        ORIGIN,
        SilentProgress(),
    )


@pytest.mark.parametrize("strategy", SEARCHES)
def test_every_strategy_is_never_worse_than_where_it_starts(tmp_path: Path, strategy: str) -> None:
    if strategy == "optuna-gp":
        pytest.importorskip("optuna")
    entries = run(tmp_path, strategy, 6)
    assert len(entries) == 7
    assert entries[0].shapes == space_of(devices(3)).shapes(np.asarray(entries[0].point))
    assert best_of(entries).score.objective <= entries[0].score.objective
    assert set(SEARCHES) == set(PROPOSERS)


@pytest.mark.slow
def test_proposals_beat_chance(tmp_path: Path) -> None:
    def mean(strategy: str) -> float:
        found = [best_of(run(tmp_path, strategy, 20, seed=seed, name=f"{strategy}{seed}")) for seed in range(3)]
        return float(np.mean([entry.score.objective for entry in found]))

    assert mean("debo") < mean("random")


@pytest.mark.parametrize("batch", [1, 3])
def test_an_interrupted_search_goes_the_same_way(tmp_path: Path, batch: int) -> None:
    whole = run(tmp_path, "debo", 8, name="whole", batch=batch)
    journal = tmp_path / "cut"
    lines = (tmp_path / "whole").read_text().splitlines()
    journal.write_text("\n".join(lines[:7]) + "\n" + lines[7][:40])
    assert len(read_journal(journal)) == 6
    assert run(tmp_path, "debo", 8, name="cut", batch=batch) == whole
    assert read_journal(journal) == whole


def test_a_batch_has_no_twins(tmp_path: Path) -> None:
    entries = run(tmp_path, "debo", 10, batch=3)
    assert len({repr(entry.shapes) for entry in entries}) == len(entries)


@pytest.mark.parametrize(
    ("field", "word"), [("teacher", "model"), ("data", "data set"), ("devices", "cluster"), ("objective", "objective")]
)
def test_a_journal_of_something_else_is_refused(tmp_path: Path, field: str, word: str) -> None:
    run(tmp_path, "random", 2)
    lines = (tmp_path / "journal").read_text().splitlines()
    (tmp_path / "journal").write_text("\n".join([json.dumps({**json.loads(lines[0]), field: "other"}), *lines[1:]]))
    with pytest.raises(CoformerError, match=f"its evaluations are of another {word}"):
        run(tmp_path, "random", 2)


def test_what_is_no_journal_is_refused(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text('{"loss": 1}\n')
    with pytest.raises(CoformerError, match="not a search's journal"):
        run(tmp_path, "random", 2)


def test_time_ends_a_search_behind_its_starts(tmp_path: Path) -> None:
    space = space_of(devices(3))
    starts = [space.encoding.point_of_shares([share] * 3) for share in (1 / 3, 1 / 4)]
    options = SearchOptions(1000, 4, "random", 0, seconds=0.0)
    entries = search(
        space, lambda many: [score(s) for s in many], 0.0, starts, options, tmp_path / "j", ORIGIN, SilentProgress()
    )
    assert len(entries) == 2


def test_an_interruption_does_not_begin_the_time_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(searching.time, "monotonic", lambda: clock[0])
    space, journal = space_of(devices(3)), tmp_path / "j"

    def begun(seconds: float | None, killed_at: int = 1000) -> list[Entry]:
        def slow(many: Sequence[Shapes]) -> list[Score]:
            if len(read_journal(journal)) == killed_at:
                raise KeyboardInterrupt
            clock[0] += 10.0
            return [score(shapes) for shapes in many]

        start = space.encoding.point_of_shares([1 / 3] * 3)
        options = SearchOptions(1000, 4, "random", 0, seconds=seconds)
        return search(space, slow, 0.0, [start], options, journal, ORIGIN, SilentProgress())

    with pytest.raises(KeyboardInterrupt):
        begun(55.0, killed_at=3)
    clock[0] += 3600.0  # which nobody counts
    assert spent_seconds(journal) == 30.0
    assert len(begun(55.0)) == 6, "the sixth one was begun after 50 s"
    assert spent_seconds(journal) == 60.0
    assert len(begun(55.0)) == 6
    assert len(begun(75.0)) == 8, "a larger budget goes on from what is spent"
    (tmp_path / "j.spent").write_text("a while")
    with pytest.raises(CoformerError) as caught:
        begun(75.0)
    assert caught.value.what == "holds no seconds" and caught.value.where.endswith("j.spent")
    assert caught.value.mend == "delete it: the time budget begins anew"


def test_a_search_shows_how_it_goes(tmp_path: Path) -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=200, color_system=None)
    space = space_of(devices(3))
    start = space.encoding.point_of_shares([1 / 3] * 3)
    with RichProgress(console) as progress:
        entries = search(
            space,
            lambda many: [score(shapes) for shapes in many],
            DELTA_PER_MS,
            [start],
            SearchOptions(6, 4, "debo", 0, seconds=3600.0),
            tmp_path / "journal",
            ORIGIN,
            progress,
        )
    best = best_of(entries).score
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue()).replace("\r", "\n").splitlines()
    line = next(each for each in reversed(shown) if "debo search" in each)
    assert "7/7 candidates" in line and "left 0:00:00" in line
    figures = f"best objective {best.objective:.4g}, loss {best.loss:.4g}, estimated ms {best.latency.total_ms:.4g}"
    found = re.search(rf"{figures}, budget left, s (\d+), expected gain in log loss (\S+)", line)
    assert found is not None, line
    assert 3000 < int(found.group(1)) <= 3600 and float(found.group(2)) >= 0


def test_the_expected_gain_is_of_the_log_loss_under_what_the_latency_leaves() -> None:
    """Where the process is sure, the gain is how far its guess is under the goal, in logarithms."""
    random = np.random.default_rng(0)
    x = random.random((60, 2))
    logs = np.log(0.2 + x[:, 0])
    model = _Model(x, logs)
    seen, guess = x[:5], model.mean(x[:5])
    np.testing.assert_allclose(model.gains(seen, np.exp(guess + 0.7)), 0.7, atol=0.02)
    assert model.gains(seen, np.exp(guess - 0.7)).max() < 1e-3
    assert model.gains(seen, np.full(5, -0.1)).tolist() == [0.0] * 5, "no loss is small enough"


def test_only_the_central_device_has_to_fit_where_others_may_be_left_out() -> None:
    last, first = (
        devices(3, memory_mb=1.0),
        tuple(replace(d, memory_mb=1.0 if d.central else 500.0) for d in devices(3)),
    )
    space_of(last).require_possible()
    with pytest.raises(
        CoformerError, match=r"not even the smallest member fits; short are C6 of '2' by \S+ MB"
    ) as told:
        space_of(last, drop=False).require_possible()
    (enough,) = map(float, re.findall(r"^raise memory_mb of '2' to ([\d.]+)$", told.value.mend))
    space_of(devices(3, memory_mb=enough), drop=False).require_possible()
    with pytest.raises(CoformerError, match="short are C6 of '0'"):
        space_of(first).require_possible()
    late = devices(3, deadline_ms=0.01)
    with pytest.raises(CoformerError, match=r"short are deadline of '2' by .* ms until its features arrive, estimated"):
        space_of(late, drop=False).require_possible()


def test_nothing_beats_the_front(tmp_path: Path) -> None:
    def figures(entry: Entry) -> tuple[float, float, float]:
        return entry.score.latency.total_ms, entry.score.loss, entry.score.energy_mj

    entries = run(tmp_path, "random", 30)
    front = pareto_front(entries)
    for entry in entries:
        assert any(all(a <= b for a, b in zip(figures(f), figures(entry), strict=True)) for f in front)
    for one in front:
        assert not any(
            other is not one and all(a <= b for a, b in zip(figures(other), figures(one), strict=True))
            for other in front
        )


def test_picks(tmp_path: Path) -> None:
    entries = run(tmp_path, "random", 30)
    times = [entry.score.latency.total_ms for entry in entries]
    losses = [entry.score.loss for entry in entries]
    assert picked(entries, "fastest").score.latency.total_ms == min(times)
    assert picked(entries, "most-accurate").score.loss == min(losses)
    assert picked(entries, "best") is best_of(entries)
    limit = float(np.median(times))
    under = picked(entries, f"under={limit}")
    assert under.score.loss == min(loss for loss, ms in zip(losses, times, strict=True) if ms <= limit)
    knee = picked(entries, "knee").score
    assert min(losses) <= knee.loss <= max(losses)
    with pytest.raises(CoformerError, match=r"no evaluated policy is under 0.001 ms; the fastest takes \S+ ms \(est"):
        picked(entries, "under=0.001", estimated=True)
    with pytest.raises(CoformerError, match=r"no evaluated policy is under 0.001 ms; the fastest takes \S+ ms;"):
        picked(entries, "under=0.001")


@pytest.mark.parametrize(
    ("pick", "text"),
    [("kne", "did you mean the pick 'knee'"), ("under=", "names no latency"), ("under=-3", "names no latency")],
)
def test_picks_that_there_are_not(pick: str, text: str) -> None:
    with pytest.raises(CoformerError, match=text):
        check_pick(pick, "search.pick")


def test_devices_may_be_left_out_but_not_the_central_one() -> None:
    space = space_of(devices(3))
    point = space.encoding.point_of_shares([1 / 3] * 3)
    point[9:12] = 0.0
    central, *others = space.encoding.decode(point, [1.0] * 3)
    assert central is not None and len(central.heads) == 1
    assert others == [None, None]
    assert None not in space_of(devices(3), drop=False).encoding.decode(point, [1.0] * 3)


def test_members_shrink_onto_limits_and_deadlines() -> None:
    free, tight = space_of(devices(3)), space_of(devices(3, max_gflop=2e-4))
    point = free.encoding.point_of_shares([1 / 3] * 3)
    roomy, narrow = free.shapes(point), tight.shapes(point)
    assert roomy is not None and narrow is not None
    large, small = roomy[2], narrow[2]
    assert small is not None and large is not None and small.embed < large.embed
    found = free.latencies([free.encoding.decode(point, [1.0] * 3)])
    deadline = float(found.arrival_ms[2, 0] - 0.03 * found.compute_ms[2, 0])
    hurried = space_of(devices(3, deadline_ms=deadline))
    shapes = hurried.shapes(point)
    assert shapes is not None
    assert hurried.latencies([shapes]).arrival_ms[2, 0] <= deadline


def test_the_preflight_counts_what_fits() -> None:
    assert space_of(devices(3)).preflight(0, 64).fits == 1.0
    found = space_of(devices(3, max_gflop=2e-4)).preflight(0, 64)
    assert 0 < found.fits < found.fits_shrunk == 1.0
    assert found.binding == {"C5 of '2'": pytest.approx(1 - found.fits)}


@pytest.mark.parametrize(
    ("changes", "short", "mend"),
    [
        ({"memory_mb": 1.0}, r"C6 of '2' by (\S+) MB of memory", "memory_mb of '2' to "),
        ({"max_gflop": 1e-7}, r"C5 of '2' by (\S+) GFLOP of work per inference", "max_gflop of '2' to "),
        (
            {"deadline_ms": 0.001},
            r"deadline of '2' by (\S+) ms until its features arrive, estimated",
            "deadline_ms of '2' to ",
        ),
    ],
)
def test_devices_that_nothing_fits_are_named(changes: dict[str, float], short: str, mend: str) -> None:
    with pytest.raises(CoformerError) as caught:
        space_of(devices(3, **changes), drop=False).preflight(0, 64)
    told = caught.value
    assert told.where == "search" and "none of 64 random policies fits the devices" in told.what
    (key, limit), by = next(iter(changes.items())), re.search(short, told.what)
    assert by is not None and f"{mend}" in told.mend
    (enough,) = map(float, re.findall(rf"{key} of '2' to ([\d.e-]+)", told.mend))
    assert enough == pytest.approx(limit + float(by.group(1)), rel=2e-3), "the least of the sample, rounded up"
    assert space_of(devices(3, **{key: enough}), drop=False).preflight(0, 64).fits_shrunk > 0
    with pytest.raises(CoformerError):
        space_of(devices(3, **{key: limit + 0.99 * (enough - limit)}), drop=False).preflight(0, 64)


def test_all_that_nothing_fits_is_named_with_limits_that_do_together() -> None:
    tight = tuple(
        replace(each, **change)
        for each, change in zip(
            devices(3), ({"memory_mb": 60.0, "max_gflop": 1e-7}, {}, {"deadline_ms": 1e-3}), strict=True
        )
    )
    with pytest.raises(CoformerError) as caught:
        space_of(tight, drop=False).preflight(0, 32)
    told = re.findall(r"(C5|C6|deadline) of '(\d)' by", caught.value.what)
    assert told == [("C5", "0"), ("C6", "0"), ("deadline", "2")]
    assert "a faster network relaxes deadlines too" in caught.value.mend
    relaxed = list(tight)
    for key, name, value in re.findall(r"(\w+) of '(\d)' to ([\d.e-]+)", caught.value.mend):
        relaxed[int(name)] = replace(relaxed[int(name)], **{key: float(value)})
    assert space_of(tuple(relaxed), drop=False).preflight(0, 32).fits_shrunk > 0


def test_deadlines_that_hold_alone_but_not_together_are_told_of_the_nearest_policy() -> None:
    """Two members behind one slow link: whichever is first is in time, the other one waits for it."""
    slow = Network(mbps=0.05)

    def preflight(deadline_ms: float) -> Preflight:
        cluster = tuple(d if d.central else replace(d, deadline_ms=deadline_ms) for d in devices(3))
        encoding = Encoding(teacher_shape(SPEC), cluster, (0.3, 0.2, 0.1), False, drop=False)
        space = Space(encoding, SPEC, slow, shortcuts=True)
        space.require_possible()
        return space.preflight(0, 32)

    encoding = Encoding(teacher_shape(SPEC), devices(3), (0.3, 0.2, 0.1), False, drop=False)
    smallest = (MemberShape(8, {0: 1}, {0: 8}),) * 3
    arrivals = sorted(Space(encoding, SPEC, slow, shortcuts=True).latencies([smallest]).arrival_ms[:, 0])
    with pytest.raises(CoformerError, match=r"short are deadline of '[12]' by \S+ ms") as caught:
        preflight(float(arrivals[1] + 0.5 * (arrivals[2] - arrivals[1])))
    enough = re.search(r"deadline_ms of '[12]' to ([\d.]+); a faster network", caught.value.mend)
    assert enough is not None and preflight(float(enough.group(1))).fits_shrunk > 0


def test_members_lose_layers_where_narrower_is_not_enough() -> None:
    point = space_of(devices(3)).encoding.point_of_shares([1 / 3] * 3)
    smallest = {n: MemberShape(8, dict.fromkeys(range(n), 1), dict.fromkeys(range(n), 8)) for n in (1, 2)}
    least, most = (member_cost(SPEC, smallest[n], shortcuts=True).flops / 1e9 for n in (1, 2))
    shapes = space_of(devices(3, max_gflop=(least + most) / 2), drop=False).shapes(point)
    assert shapes is not None and shapes[2] is not None
    assert (shapes[2].embed, set(shapes[2].heads)) == (8, {0}), "the most influential layer stays"


def test_features_do_not_know_which_device_has_which_member() -> None:
    space = space_of(devices(3))
    shapes = space.shapes(np.random.default_rng(3).random(space.encoding.dimensions))
    shape = space.encoding.shape
    one, other = (features_of(candidates_of([each], shape.layers), shape) for each in (shapes, shapes[::-1]))
    np.testing.assert_allclose(one, other)
    assert one.shape == (1, 12)


@pytest.mark.parametrize(("count", "width"), [(1, 7), (2, 11), (3, 12), (5, 12)])
def test_features_of_any_number_of_members(count: int, width: int) -> None:
    encoding = Encoding(teacher_shape(SPEC), devices(count), (0.3, 0.2, 0.1), False)
    points = np.random.default_rng(3).random((4, encoding.dimensions))
    candidates = candidates_of([encoding.decode(each, [1.0] * count) for each in points], 3)
    found = features_of(candidates, encoding.shape)
    assert found.shape == (4, width)
    assert np.isfinite(found).all()


def test_many_points_decode_as_one_does() -> None:
    space = space_of(devices(3, max_gflop=2e-4))
    points = np.random.default_rng(5).random((12, space.encoding.dimensions))
    assert space.many_shapes(points) == [space.shapes(point) for point in points]


def test_the_pool_has_news_and_kin() -> None:
    random = np.random.default_rng(0)
    points = np.array([[0.2, 0.2], [0.9, 0.9]])
    pool = pool_around(points, np.array([0.0, 1.0]), random)
    assert pool.min() >= 0 and pool.max() <= 1
    assert np.abs(pool - points[0]).sum(1).min() < 0.05
    assert len(np.unique(mutations(points[:1], 50, random), axis=0)) > 25
