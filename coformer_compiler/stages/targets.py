"""Stage "targets": the teacher's answers as labels, for tasks whose data has none.

The training split stays without: the booster has the teacher answer it, in every view.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from coformer_compiler.artifact import Artifact, Store
from coformer_compiler.compute import computing_device
from coformer_compiler.data.dataset import DataSet, Split
from coformer_compiler.model.transformer import Transformer
from coformer_compiler.progress import Stage
from coformer_compiler.stages.batches import batches_of

SPLITS = ("validation", "calibration", "test")


def label_with_teacher(store: Store, imported: Artifact, teacher: Transformer, data: DataSet) -> DataSet:
    """The data with the teacher's answers as labels where the task wants that; else the data as it is."""
    if not data.task.labels_from_teacher:
        return data

    def make(folder: Path, _work: Path) -> None:
        device = computing_device()
        teacher.to(device)
        splits: dict[str, Split] = {name: getattr(data, name) for name in SPLITS}
        with store.progress.stage("teacher's answers", sum(map(len, splits.values())), unit="sample") as stage:
            for name, split in splits.items():
                answers = _answers(teacher, split, device, stage)
                np.save(folder / f"{name}.npy", answers, allow_pickle=False)
        teacher.cpu()

    made = store.stage("targets", (imported,), {"data": data.sha256}, make)
    labels = {name: np.load(made.path / f"{name}.npy", mmap_mode="c") for name in SPLITS}
    return replace(data, **{name: replace(getattr(data, name), labels=labels[name]) for name in SPLITS})


@torch.no_grad()
def _answers(teacher: Transformer, split: Split, device: torch.device, stage: Stage) -> np.ndarray:
    found = []
    for inputs, _ in batches_of(split, device):
        found.append(teacher(inputs).cpu().numpy())
        stage.advance(len(inputs))
    return np.concatenate(found)
