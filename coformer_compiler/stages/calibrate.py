"""Stage "calibrate": the teacher's statistics on the calibration set."""

from __future__ import annotations

from pathlib import Path

from coformer_compiler.artifact import Artifact, Store
from coformer_compiler.compute import computing_device
from coformer_compiler.data.dataset import DataSet
from coformer_compiler.model.transformer import Transformer
from coformer_compiler.stages.batches import batches_of
from coformer_compiler.transplant.statistics import (
    Statistics,
    load_statistics,
    save_statistics,
    statistics_from_batches,
)

NAME = "statistics.safetensors"


def calibrate(store: Store, teacher: Artifact, model: Transformer, data: DataSet, importance: str) -> Artifact:
    """Second moments at every norm, importance of every head and neuron."""

    def make(folder: Path, _work: Path) -> None:
        device = computing_device()
        statistics = statistics_from_batches(
            model.to(device), batches_of(data.calibration, device), importance, data.task
        )
        save_statistics(folder / NAME, statistics)
        model.cpu()

    return store.stage("calibrate", (teacher,), {"data": data.sha256, "importance": importance}, make)


def statistics_of(artifact: Artifact) -> Statistics:
    """The statistics on disk."""
    return load_statistics(artifact.path / NAME)
