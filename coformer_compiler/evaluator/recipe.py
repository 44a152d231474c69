"""Scoring in other processes: all that an evaluator is made of, as files, so that every process makes its own once.

joblib runs the batch: here in processes of this machine (loky), on a Dask or Ray cluster under
`joblib.parallel_config(backend=…)`; the recipe's folder then has to be on a file system that all of them see. Every
candidate is scored with one thread, in whatever process, so that the number of jobs changes no digit.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from coformer_compiler.artifact import tree_digest
from coformer_compiler.compute import computing_device
from coformer_compiler.data.dataset import Split
from coformer_compiler.decomposer.shapes import MaybeShape
from coformer_compiler.device import Device
from coformer_compiler.evaluator.latency import Network
from coformer_compiler.evaluator.score import Evaluator, Loss, Score
from coformer_compiler.model.checkpoint import load_transformer, save_transformer
from coformer_compiler.model.transformer import Transformer
from coformer_compiler.tasks import CLASSIFICATION, Task
from coformer_compiler.transplant.basis import BasisKind
from coformer_compiler.transplant.statistics import Statistics, load_statistics, save_statistics

TEACHER, STATISTICS, SAMPLES = "teacher.safetensors", "statistics.safetensors", "samples.npz"


@dataclass(frozen=True)
class Recipe:
    """An evaluator on disk; see `Evaluator`."""

    folder: Path
    devices: tuple[Device, ...]
    basis: BasisKind
    network: Network
    delta: float
    loss: Loss = "aggregated"
    task: Task = CLASSIFICATION
    digest: str = ""


def written_recipe(
    recipe: Recipe, teacher: Transformer, statistics: Statistics, calibration: Split, validation: Split
) -> Recipe:
    """Fill the recipe's folder; the recipe with the digest of what is in it, by which processes know it."""
    recipe.folder.mkdir(parents=True, exist_ok=True)
    save_transformer(recipe.folder / TEACHER, teacher)
    save_statistics(recipe.folder / STATISTICS, statistics)
    np.savez(
        recipe.folder / SAMPLES,
        calibration=calibration.inputs,
        calibration_labels=calibration.labels,
        validation=validation.inputs,
        validation_labels=validation.labels,
    )
    return replace(recipe, task=validation.task, digest=tree_digest(recipe.folder))


def score_many(recipe: Recipe, shapes: Sequence[Sequence[MaybeShape]], jobs: int) -> list[Score]:
    """Scores in the order of `shapes`, from up to `jobs` processes, or from joblib's current parallel backend."""
    if jobs == 1 or len(shapes) == 1:
        return [score_one(recipe, each) for each in shapes]
    from joblib import Parallel, delayed  # type: ignore[import-untyped]

    found: list[Score] = Parallel(n_jobs=jobs)(delayed(score_one)(recipe, each) for each in shapes)
    return found


def score_one(recipe: Recipe, shapes: Sequence[MaybeShape]) -> Score:
    """One score, by this process' evaluator of the recipe."""
    with _one_thread():
        return evaluator_of(recipe).score(shapes)


@functools.lru_cache(maxsize=1)
def evaluator_of(recipe: Recipe) -> Evaluator:
    """The recipe's evaluator; made once in a process."""
    with np.load(recipe.folder / SAMPLES) as samples:
        calibration = Split(samples["calibration"], samples["calibration_labels"], recipe.task)
        validation = Split(samples["validation"], samples["validation_labels"], recipe.task)
    return Evaluator(
        load_transformer(recipe.folder / TEACHER).to(computing_device()),
        load_statistics(recipe.folder / STATISTICS),
        recipe.devices,
        calibration,
        validation,
        basis=recipe.basis,
        network=recipe.network,
        delta=recipe.delta,
        loss=recipe.loss,
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
