"""Stage "evaluate": accuracy, or the task's own score, of teacher, members and every subset on the test split."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from coformer_compiler.artifact import Artifact, Store
from coformer_compiler.compute import computing_device
from coformer_compiler.data.dataset import DataSet, Split
from coformer_compiler.model.aggregator import subset_name
from coformer_compiler.model.system import System, load_system
from coformer_compiler.model.transformer import Transformer
from coformer_compiler.stages.batches import batches_of
from coformer_compiler.tasks import Task

RESULT = "accuracy.json"


@dataclass(frozen=True)
class SystemAccuracy:
    """Scores, for classes shares of right answers: each member alone with its own head, and every subset aggregated."""

    members: tuple[float, ...]
    subsets: dict[str, float]

    @property
    def aggregated(self) -> float:
        """All members together."""
        return self.subsets[subset_name(range(len(self.members)))]


@dataclass(frozen=True)
class Accuracies:
    """Teacher, system before training, system after; the task's other metrics as (teacher, all, each member alone)."""

    teacher: float
    untrained: SystemAccuracy
    calibrated: SystemAccuracy
    samples: int
    others: dict[str, tuple[float, ...]]


def evaluate(store: Store, parents: Sequence[Artifact], teacher: Transformer, data: DataSet) -> Artifact:
    """Accuracies on the test split; `parents` are the artifacts of import, transplant and boost."""

    def make(folder: Path, _work: Path) -> None:
        device = computing_device()
        answers = _answers(teacher.to(device), data.test, device)
        calibrated = _system_answers(load_system(parents[2].path), data.test, device)
        labels = labels_of(data.test)
        everyone = (answers, calibrated.subsets[max(calibrated.subsets, key=len)], *calibrated.members)
        result = Accuracies(
            data.task.score.measure(answers, labels),
            system_accuracy(load_system(parents[1].path), data.test, device),
            calibrated.scored(data.test),
            len(data.test),
            {m.name: tuple(m.measure(each, labels) for each in everyone) for m in data.task.metrics[1:]},
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
    others = {name: tuple(figures) for name, figures in data["others"].items()}
    return Accuracies(data["teacher"], untrained, calibrated, data["samples"], others)


@dataclass(frozen=True)
class SystemAnswers:
    """Answers of each member alone, and of every subset; what the task keeps of them, `(samples, …)`."""

    members: tuple[torch.Tensor, ...]
    subsets: dict[tuple[int, ...], torch.Tensor]

    def scored(self, split: Split) -> SystemAccuracy:
        """The task's score of all of them."""
        measure, labels = split.task.score.measure, labels_of(split)
        return SystemAccuracy(
            tuple(measure(answers, labels) for answers in self.members),
            {subset_name(subset): measure(answers, labels) for subset, answers in self.subsets.items()},
        )


def labels_of(split: Split) -> torch.Tensor:
    """The labels, on the CPU."""
    return torch.from_numpy(np.array(split.labels))


@torch.no_grad()
def teacher_accuracy(model: Transformer, split: Split, device: torch.device) -> float:
    """Score of one model; for classes, the share of right answers."""
    return split.task.score.measure(_answers(model, split, device), labels_of(split))


def system_accuracy(system: System, split: Split, device: torch.device) -> SystemAccuracy:
    """Scores of a system; for classes, shares of right answers."""
    return _system_answers(system, split, device).scored(split)


@torch.no_grad()
def _answers(model: Transformer, split: Split, device: torch.device) -> torch.Tensor:
    return torch.cat([split.task.kept(model(inputs), labels).cpu() for inputs, labels in batches_of(split, device)])


def _system_answers(system: System, split: Split, device: torch.device) -> SystemAnswers:
    members = [member.to(device) for member in system.members]
    system.aggregator.to(device)
    return answers_from_features(
        system,
        split.task,
        (
            ({n: member.features(inputs) for n, member in enumerate(members)}, labels)
            for inputs, labels in batches_of(split, device)
        ),
    )


@torch.no_grad()
def answers_from_features(
    system: System, task: Task, batches: Iterable[tuple[Mapping[int, torch.Tensor], torch.Tensor]]
) -> SystemAnswers:
    """What heads and aggregators make of the members' features, `{n: (batch, d_n)}` per batch, with its labels."""
    alone: list[list[torch.Tensor]] = [[] for _ in system.members]
    together: dict[tuple[int, ...], list[torch.Tensor]] = {subset: [] for subset in system.aggregator.subsets}
    for features, labels in batches:
        for n, member in enumerate(system.members):
            alone[n].append(task.kept(member.head(features[n]), labels).cpu())
        for subset, parts in together.items():
            parts.append(task.kept(system.aggregator({n: features[n] for n in subset}), labels).cpu())
    return SystemAnswers(
        tuple(torch.cat(parts) for parts in alone),
        {subset: torch.cat(parts) for subset, parts in together.items()},
    )
