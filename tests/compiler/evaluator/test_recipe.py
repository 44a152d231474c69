"""Candidates scored in other processes get the scores that they get here, digit for digit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch

from coformer_compiler.data.dataset import Split
from coformer_compiler.decomposer.policy import teacher_shape
from coformer_compiler.decomposer.search.encoding import Encoding
from coformer_compiler.decomposer.search.space import Shapes, Space
from coformer_compiler.device import Device
from coformer_compiler.evaluator.compute import SHIPPED
from coformer_compiler.evaluator.latency import LatencyModel, Network
from coformer_compiler.evaluator.recipe import Recipe, evaluator_of, score_many, written_recipe
from coformer_compiler.profiling.predictor import load_predictor
from coformer_compiler.transplant.statistics import Statistics, load_statistics, statistics_from_batches
from coformer_targets import load_target
from tests.compiler.tiny import random_model, tiny_spec


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, list[Shapes]]:
    """An evaluator on disk and four candidates for two devices."""
    spec = tiny_spec()
    teacher = random_model(spec)
    random = np.random.default_rng(0)
    calibration, validation = (
        Split(
            random.integers(0, 256, (count, *spec.stem.input.shape), dtype=np.uint8),
            random.integers(spec.classes, size=count),
        )
        for count in (48, 24)
    )
    batches = [(torch.from_numpy(calibration.inputs), torch.from_numpy(calibration.labels))]
    statistics = statistics_from_batches(teacher, batches)
    target = load_target("cpu")
    devices = tuple(Device(str(n), target, 10.0 / (n + 1), 500.0, None, n == 0) for n in range(2))
    made = Recipe(tmp_path_factory.mktemp("recipe"), devices, "per-norm", Network(), 0.1, False)
    made = written_recipe(made, teacher, statistics, calibration, validation)
    influence = tuple(float(value) for value in statistics.influence)
    space = Space(Encoding(teacher_shape(spec), devices, influence, False), spec, Network(), shortcuts=True)
    return made, [space.drawn(random)[1] for _ in range(4)]


def test_equal_inputs_make_equal_recipes(recipe: tuple[Recipe, list[Shapes]], tmp_path: Path) -> None:
    made = recipe[0]
    evaluator = evaluator_of(made)
    again = written_recipe(
        replace(made, folder=tmp_path),
        evaluator.teacher,
        statistics_of(made),
        *(Split(*samples) for samples in samples_of(made)),
    )
    assert again.digest == made.digest


def test_the_number_of_processes_changes_no_digit(recipe: tuple[Recipe, list[Shapes]]) -> None:
    here = score_many(*recipe, 1)
    assert len({score.loss for score in here}) > 1, "candidates differ"
    assert score_many(*recipe, 2) == here


@pytest.mark.parametrize("jobs", [1, 2])
def test_devices_that_were_measured_are_scored_in_any_process(recipe: tuple[Recipe, list[Shapes]], jobs: int) -> None:
    made, candidates = recipe
    predictor = load_predictor(SHIPPED / "cpu.safetensors")
    measured = replace(made, devices=tuple(replace(device, predictor=predictor) for device in made.devices))
    found, plain = score_many(measured, candidates, jobs), score_many(made, candidates, 1)
    assert [score.loss for score in found] == [score.loss for score in plain]
    model = LatencyModel(tiny_spec(), measured.devices, measured.network)
    assert [score.latency for score in found] == [model.of_shapes(each, shortcuts=True) for each in candidates]
    assert all(a.latency != b.latency for a, b in zip(found, plain, strict=True))
    assert evaluator_of(measured) is evaluator_of(replace(measured)), "made once in a process"


@pytest.mark.slow
def test_a_dask_cluster_gives_the_same_scores(recipe: tuple[Recipe, list[Shapes]], tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=str(tmp_path)
    )
    with cluster, distributed.Client(cluster), joblib.parallel_config(backend="dask"):
        there = score_many(*recipe, 2)
    assert there == score_many(*recipe, 1)


def samples_of(recipe: Recipe) -> list[tuple[np.ndarray, np.ndarray]]:
    with np.load(recipe.folder / "samples.npz") as samples:
        return [(samples[name], samples[f"{name}_labels"]) for name in ("calibration", "validation")]


def statistics_of(recipe: Recipe) -> Statistics:
    return load_statistics(recipe.folder / "statistics.safetensors")
