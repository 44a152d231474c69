"""Predictors: known laws are found again, files survive, and what does not fit together is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coformer_compiler.decomposer.policy import teacher_shape
from coformer_compiler.device import Device
from coformer_compiler.evaluator.compute import SHIPPED, compute_model
from coformer_compiler.evaluator.latency import LatencyModel, Network
from coformer_compiler.profiling import fit as fitting
from coformer_compiler.profiling import mlp
from coformer_compiler.profiling.draws import drawn_shapes
from coformer_compiler.profiling.fit import FEWEST, Measured, calibrate, fit, fit_files, relative_errors
from coformer_compiler.profiling.mlp import fit_mlp, mlp_latency_ms
from coformer_compiler.profiling.predictor import (
    Origin,
    Predictor,
    load_predictor,
    mismatch,
    save_predictor,
)
from coformer_compiler.profiling.roofline import fit_times
from coformer_compiler.profiling.table import table_of_shapes
from coformer_compiler.profiling.terms import TERMS, flops_of, kernel_terms, paper_features
from coformer_runtime.errors import CoformerError
from coformer_runtime.profile_points import MeasuredPoint, Provenance, Shape, write_csv
from coformer_targets import load_target
from tests.compiler.tiny import tiny_spec

TEACHER = tiny_spec(embed=64, heads=4, head_dim=16, neurons=256, layers=6, image=(32, 32))
ORIGIN = Origin("cpu", "onnxruntime", "1.32.0", "float32", "a board", 1, "wall", "")
LAW = {"one inference": 0.05, "sub-blocks": 0.01, "attention products": 2e-8, "mlp products": 1e-8, "heads": 0.005}


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    """Few epochs; how well the network learns is one test's matter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlp, "EPOCHS", 2)
        yield


@pytest.fixture(scope="module")
def measured() -> Measured:
    return made(TEACHER, 150)


def made(teacher, count: int, seed: int = 0, factor: float = 1.0) -> Measured:  # type: ignore[no-untyped-def]
    """Points that obey the law, but for noise of 1 per cent."""
    drawn = drawn_shapes(teacher_shape(teacher), 8, count, seed)
    table = table_of_shapes([s for s, _ in drawn], len(teacher.layers), shortcuts=[flag for _, flag in drawn])
    times = np.array([LAW.get(term, 0.0) for term in TERMS])
    noise = 1 + 0.01 * np.random.default_rng(seed).standard_normal(count)
    latency_ms = factor * kernel_terms(teacher, table) @ times * noise
    return Measured("tiny", teacher, table, latency_ms, np.full(count, 0.02))


@pytest.fixture(scope="module")
def predictor(measured: Measured) -> Predictor:
    return fit([measured], ORIGIN, unstable=3)


def test_a_known_law_is_found_again(measured: Measured) -> None:
    terms = kernel_terms(TEACHER, measured.shapes)
    times = fit_times(terms, measured.latency_ms)
    assert (times >= 0).all()
    fresh = made(TEACHER, 60, seed=9)
    errors = np.abs(kernel_terms(TEACHER, fresh.shapes) @ times / fresh.latency_ms - 1)
    assert np.median(errors) < 0.012 and np.percentile(errors, 95) < 0.03


def test_the_papers_network_learns_a_law_of_its_four_features(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    features = random.uniform(1, 12, (300, 4))
    latency_ms = features[:, 0] * (0.1 + 0.02 * features[:, 1] + 0.01 * features[:, 2] * features[:, 3])
    monkeypatch.setattr(mlp, "EPOCHS", 40)
    weights = fit_mlp(features[:240], latency_ms[:240])
    assert {name: weights[name].shape for name in weights if name.endswith("weight")} == {
        "layers.0.weight": (600, 4),
        "layers.2.weight": (600, 600),
        "layers.4.weight": (1, 600),
    }
    errors = np.abs(mlp_latency_ms(weights, features[240:]) / latency_ms[240:] - 1)
    assert np.median(errors) < 0.06
    again = fit_mlp(features[:240], latency_ms[:240])
    assert all(np.array_equal(weights[name], again[name]) for name in weights)


def test_the_better_one_is_used_and_both_errors_are_told(predictor: Predictor, measured: Measured) -> None:
    assert predictor.kind == "roofline" and set(predictor.errors) == {"roofline", "mlp"}
    assert predictor.errors["roofline"].median < predictor.errors["mlp"].median
    *_, held_out = fitting.split(len(measured.latency_ms), 0)
    errors = relative_errors(predictor, [measured])[held_out]
    assert predictor.errors["roofline"].median == pytest.approx(np.median(errors))
    assert predictor.errors["roofline"].p95 == pytest.approx(np.percentile(errors, 95))
    assert (predictor.points, predictor.unstable, predictor.spread) == (150, 3, pytest.approx(0.02))


def test_points_that_tell_the_errors_choose_nothing(measured: Measured) -> None:
    """The network is flawless on the held-out points, and worse on those that choose: it is not kept."""
    *known, held_out = fitting.split(len(measured.latency_ms), 0)
    rows = np.sort(np.concatenate(known))
    assert sorted([*rows, *held_out]) == list(range(150)) and len(held_out) == len(known[1]) == 30
    features = paper_features(measured.shapes)
    flattering = measured.latency_ms.copy()
    flattering[held_out] = mlp_latency_ms(fit_mlp(features[rows], flattering[rows]), features[held_out])
    found = fit([replace(measured, latency_ms=flattering)], ORIGIN, unstable=0)
    assert found.errors["mlp"].p95 < 1e-5 < found.errors["roofline"].median
    assert found.kind == "roofline"


def test_a_predictor_survives_its_file(tmp_path: Path, predictor: Predictor, measured: Measured) -> None:
    path, other = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_predictor(path, predictor)
    save_predictor(other, predictor)
    assert path.read_bytes() == other.read_bytes() and path.stat().st_size < 20_000
    found = load_predictor(path)
    assert replace(found, sha256="") == predictor
    ours, theirs = (each.latency_ms(TEACHER, measured.shapes) for each in (found, predictor))
    np.testing.assert_array_equal(ours, theirs)


def test_files_that_are_no_predictors_are_refused(tmp_path: Path, predictor: Predictor) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(CoformerError, match="cannot be read"):
        load_predictor(path)
    path.write_bytes(b"junk")
    with pytest.raises(CoformerError, match=r"is no predictor .*; make one with `coformerc profile fit`"):
        load_predictor(path)
    save_predictor(path, predictor)
    path.write_bytes(path.read_bytes().replace(b"coformer-predictor/1", b"coformer-predictor/9"))
    with pytest.raises(CoformerError, match="its format is 'coformer-predictor/9', this version reads"):
        load_predictor(path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"target": "raspberry-pi-5"}, "measured for the target 'raspberry-pi-5', the device's is 'cpu'"),
        ({"engine": "tensorrt"}, "measured for the engine 'tensorrt', the device's is 'onnxruntime'"),
        ({"engine_version": "1.20.1"}, "measured with onnxruntime 1.20.1, target 'cpu' has 1."),
        ({"precision": "int8"}, "measured for the precision 'int8', the device's is 'float32'"),
    ],
)
def test_what_a_predictor_does_not_fit(predictor: Predictor, change: dict[str, str], told: str) -> None:
    target = load_target("cpu")
    fitting_origin = replace(ORIGIN, engine_version=target.engine_version)
    assert mismatch(replace(predictor, origin=fitting_origin), target) is None
    assert told in str(mismatch(replace(predictor, origin=replace(fitting_origin, **change)), target))


def device(predictor: Predictor | None = None, gflops: float = 5.0) -> Device:
    return Device("attic", load_target("cpu"), gflops, 500.0, None, True, predictor)


def test_measurements_of_the_device_are_no_estimate(predictor: Predictor, measured: Measured) -> None:
    model = compute_model(device(predictor), TEACHER)
    assert not model.estimated and model.basis == "predicted from measurements on a board"
    np.testing.assert_array_equal(
        model.latency_ms(TEACHER, measured.shapes), predictor.latency_ms(TEACHER, measured.shapes)
    )
    smaller = tiny_spec(embed=32, heads=2, head_dim=16, neurons=128, layers=3, image=(32, 32))
    assert not compute_model(device(predictor), smaller).estimated


@pytest.mark.parametrize("change", [{"layers": 7}, {"image": (48, 48)}, {"head_dim": 8}, {"activation": "relu"}])
def test_members_of_other_teachers_are_an_estimate(predictor: Predictor, change: dict[str, object]) -> None:
    same = {"embed": 64, "heads": 4, "head_dim": 16, "neurons": 256, "layers": 6, "image": (32, 32)}
    model = compute_model(device(predictor), tiny_spec(**{**same, **change}))  # type: ignore[arg-type]
    assert model.estimated and model.basis.endswith("of members of tiny, not of this model")


def test_the_papers_form_knows_no_other_teachers(predictor: Predictor, measured: Measured) -> None:
    weights = fit_mlp(paper_features(measured.shapes), measured.latency_ms)
    paper = replace(predictor, kind="mlp", tensors=weights)
    with pytest.raises(CoformerError, match="the paper's form knows no other teachers"):
        compute_model(device(paper), tiny_spec(layers=9))


def test_what_ships_gives_the_shape_and_flops_the_level(
    tmp_path: Path, predictor: Predictor, measured: Measured
) -> None:
    fitting_origin = replace(ORIGIN, engine_version=load_target("cpu").engine_version)
    save_predictor(tmp_path / "cpu.safetensors", replace(predictor, origin=fitting_origin))
    model = compute_model(device(gflops=5.0), TEACHER, tmp_path)
    assert model.estimated and model.basis == "estimated from 5 GFLOPS and measurements on a board"
    whole = table_of_shapes([drawn_shapes(teacher_shape(TEACHER), 8, 2, 0)[0][0]], 6, shortcuts=False)
    assert model.latency_ms(TEACHER, whole) == pytest.approx(flops_of(TEACHER, whole) / 5e6)
    faster = compute_model(device(gflops=10.0), TEACHER, tmp_path).latency_ms(TEACHER, measured.shapes)
    np.testing.assert_allclose(model.latency_ms(TEACHER, measured.shapes), 2 * faster)


def test_what_ships_for_another_version_is_left_for_flops(tmp_path: Path, predictor: Predictor) -> None:
    save_predictor(tmp_path / "cpu.safetensors", replace(predictor, origin=replace(ORIGIN, engine_version="1.1")))
    model = compute_model(device(), TEACHER, tmp_path)
    assert model.predictor is None and model.estimated
    assert model.basis.startswith(
        "estimated from 5 GFLOPS; the predictor that ships does not fit: it was measured with"
    )


def test_targets_without_measurements_are_estimated_from_flops(measured: Measured) -> None:
    nano = Device("nano", load_target("jetson-nano"), 54.0, 4000.0, None, True)
    latencies = LatencyModel(TEACHER, [nano], Network())
    assert latencies.estimated and latencies.compute[0].basis == "estimated from 54 GFLOPS"
    found = latencies.of_tables([measured.shapes])
    np.testing.assert_allclose(found.compute_ms[0], flops_of(TEACHER, measured.shapes) / 54e6)


def csv(path: Path, points: Measured, **changes: object) -> Path:
    provenance = Provenance(
        "ab" * 32, "cpu", "onnxruntime", "1.32.0", "float32", "a board", 1, "wall", "", "tiny", points.teacher.to_json()
    )
    rows = []
    for n, latency in enumerate(points.latency_ms.tolist()):
        kept = tuple(np.flatnonzero(points.shapes.heads[n]).tolist())
        heads, neurons = (tuple(t[n][list(kept)].tolist()) for t in (points.shapes.heads, points.shapes.neurons))
        shape = Shape(int(points.shapes.embed[n]), kept, heads, neurons, bool(points.shapes.shortcuts[n]))
        rows.append(MeasuredPoint(f"graphs/{n}.onnx", shape, latency, 0.02, 0.01, 1.0, 50, 1, n % 50 != 7))
    write_csv(str(path), provenance._replace(**changes), rows)  # type: ignore[arg-type]
    return path


def test_files_become_a_predictor_without_what_was_not_stable(tmp_path: Path, measured: Measured) -> None:
    found = fit_files([csv(tmp_path / "points.csv", measured)])
    assert (found.points, found.unstable, found.kind) == (147, 3, "roofline")
    assert found.models == {"tiny": TEACHER} and found.origin == ORIGIN


def test_too_few_points_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CoformerError, match=r"28 points are stable, 1 are not; at least 30 stable ones are needed"):
        fit_files([csv(tmp_path / "points.csv", made(TEACHER, 29))])


def test_files_of_unlike_boards_are_refused(tmp_path: Path, measured: Measured) -> None:
    one = csv(tmp_path / "one.csv", measured)
    two = csv(tmp_path / "two.csv", measured, board="another", model="other")
    with pytest.raises(CoformerError, match=r"it was measured on 'another' with .*, 'one.csv' on 'a board' with"):
        fit_files([one, two])
    again = csv(tmp_path / "again.csv", measured)
    with pytest.raises(CoformerError, match="it is a second file of the model 'tiny'"):
        fit_files([one, again])


def test_a_few_points_carry_a_predictor_to_another_machine(tmp_path: Path, predictor: Predictor) -> None:
    few = made(TEACHER, 12, seed=4, factor=3.0)
    carried = calibrate([csv(tmp_path / "few.csv", few, board="slow board")], predictor)
    assert carried.calibration is not None and carried.board == "slow board"
    assert carried.calibration.factor == pytest.approx(3.0, rel=0.02) and carried.calibration.median < 0.03
    fresh = made(TEACHER, 40, seed=5, factor=3.0)
    assert np.median(relative_errors(carried, [fresh])) < 0.03
    save_predictor(tmp_path / "carried.safetensors", carried)
    assert load_predictor(tmp_path / "carried.safetensors").calibration == carried.calibration
    again = calibrate([csv(tmp_path / "again.csv", few, board="slow board")], carried)
    assert again.calibration is not None and again.calibration.factor == pytest.approx(carried.calibration.factor)
    with pytest.raises(CoformerError, match="target is 'jetson-nano', the predictor was measured with 'cpu'"):
        calibrate([csv(tmp_path / "nano.csv", few, target="jetson-nano")], predictor)
    with pytest.raises(CoformerError, match="3 points are stable, at least 5 are needed"):
        calibrate([csv(tmp_path / "three.csv", made(TEACHER, 3))], predictor)


def test_what_ships_fits_its_target_and_says_how_well_it_did() -> None:
    paths = sorted(SHIPPED.glob("*.safetensors"))
    assert "cpu" in [path.stem for path in paths]
    for path in paths:
        found = load_predictor(path)
        assert mismatch(found, load_target(path.stem)) is None and path.stat().st_size < 50_000
        assert found.kind == "roofline"  # the paper's form would know no other teachers
        assert found.points >= FEWEST and set(found.errors) == {"roofline", "mlp"}
        assert found.errors["roofline"].median <= 0.05 and found.errors["roofline"].p95 <= 0.15
