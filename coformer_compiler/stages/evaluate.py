"""Stage "evaluate": accuracy of teacher, members and every subset on the test split."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from coformer_compiler.artifact import Artifact, Store
from coformer_compiler.compute import computing_device
from coformer_compiler.data.dataset import DataSet, Split
from coformer_compiler.model.aggregator import subset_name
from coformer_compiler.model.system import System, load_system
from coformer_compiler.model.transformer import Transformer
from coformer_compiler.stages.batches import batches_of

RESULT = "accuracy.json"


@dataclass(frozen=True)
class SystemAccuracy:
    """Shares of right answers: each member alone with its own head, and every subset through its aggregator."""

    members: tuple[float, ...]
    subsets: dict[str, float]

    @property
    def aggregated(self) -> float:
        """All members together."""
        return self.subsets[subset_name(range(len(self.members)))]


@dataclass(frozen=True)
class Accuracies:
    """Teacher, system before training, system after."""

    teacher: float
    untrained: SystemAccuracy
    calibrated: SystemAccuracy
    samples: int


def evaluate(store: Store, parents: Sequence[Artifact], teacher: Transformer, data: DataSet) -> Artifact:
    """Accuracies on the test split; `parents` are the artifacts of import, transplant and boost."""

    def make(folder: Path, _work: Path) -> None:
        device = computing_device()
        result = Accuracies(
            teacher_accuracy(teacher.to(device), data.test, device),
            system_accuracy(load_system(parents[1].path), data.test, device),
            system_accuracy(load_system(parents[2].path), data.test, device),
            len(data.test),
        )
        teacher.cpu()
        (folder / RESULT).write_text(json.dumps(asdict(result), sort_keys=True), encoding="utf-8")

    return store.stage("evaluate", parents, {"data": data.sha256}, make)


def accuracies_of(artifact: Artifact) -> Accuracies:
    """The figures on disk."""
    data = json.loads((artifact.path / RESULT).read_text(encoding="utf-8"))
    untrained, calibrated = (
        SystemAccuracy(tuple(data[key]["members"]), data[key]["subsets"]) for key in ("untrained", "calibrated")
    )
    return Accuracies(data["teacher"], untrained, calibrated, data["samples"])


@torch.no_grad()
def teacher_accuracy(model: Transformer, split: Split, device: torch.device) -> float:
    """Share of right answers of one model."""
    return _share(model, split, device)


@torch.no_grad()
def system_accuracy(system: System, split: Split, device: torch.device) -> SystemAccuracy:
    """Shares of right answers of a system; features are computed once for all subsets."""
    members, aggregator = [member.to(device) for member in system.members], system.aggregator.to(device)
    right_alone = [0] * len(members)
    right = dict.fromkeys(aggregator.subsets, 0)
    for inputs, labels in batches_of(split, device):
        features = [member.features(inputs) for member in members]
        for n, member in enumerate(members):
            right_alone[n] += int((member.head(features[n]).argmax(-1) == labels).sum())
        for subset in aggregator.subsets:
            logits = aggregator({n: features[n] for n in subset})
            right[subset] += int((logits.argmax(-1) == labels).sum())
    count = len(split)
    return SystemAccuracy(
        tuple(number / count for number in right_alone),
        {subset_name(subset): number / count for subset, number in right.items()},
    )


def _share(answer: Callable[[torch.Tensor], torch.Tensor], split: Split, device: torch.device) -> float:
    right = sum(int((answer(inputs).argmax(-1) == labels).sum()) for inputs, labels in batches_of(split, device))
    return right / len(split)
