"""Accuracies, against counting one image at a time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from coformer_compiler.artifact import load_artifact
from coformer_compiler.data import load_data
from coformer_compiler.model.checkpoint import load_transformer
from coformer_compiler.model.system import load_system
from coformer_compiler.stages.batches import batches_of
from coformer_compiler.stages.evaluate import accuracies_of, system_accuracy, teacher_accuracy


def only(out: Path, stage: str) -> Path:
    (folder,) = (out / "cache" / stage).iterdir()
    return folder


@pytest.fixture(scope="module")
def split():
    return load_data("digits", image_size=8, channels=1).test


def test_batches_cover_the_split_in_order(split) -> None:
    parts = list(batches_of(split, batch=150))
    assert [len(labels) for _, labels in parts] == [150, 150, 100]
    assert torch.equal(torch.cat([pixels for pixels, _ in parts]), torch.from_numpy(split.inputs.copy()))
    assert parts[0][0].dtype == torch.uint8 and parts[0][1].dtype == torch.int64


@torch.no_grad()
def test_every_subset_and_member_is_counted(out: Path, split) -> None:
    system, cpu = load_system(only(out, "boost")), torch.device("cpu")
    found = system_accuracy(system, split, cpu)
    pixels, labels = torch.from_numpy(split.inputs.copy()), torch.from_numpy(split.labels.copy())
    features = system.features(pixels)
    for n, member in enumerate(system.members):
        right = sum(int(member(pixels[i : i + 1]).argmax()) == int(labels[i]) for i in range(100))
        assert right == int((member.head(features[n]).argmax(-1) == labels)[:100].sum())
        assert found.members[n] == float((member.head(features[n]).argmax(-1) == labels).double().mean())
    assert set(found.subsets) == {"0", "1", "2", "0-1", "0-2", "1-2", "0-1-2"}
    logits = system.aggregator({0: features[0], 2: features[2]})
    assert found.subsets["0-2"] == float((logits.argmax(-1) == labels).double().mean())
    assert found.aggregated == found.subsets["0-1-2"]


def test_the_artifact_and_the_report_say_the_same(out: Path, split) -> None:
    artifact = load_artifact("evaluate", only(out, "evaluate"))
    assert artifact is not None
    found = accuracies_of(artifact)
    teacher = load_transformer(only(out, "import") / "teacher.safetensors")
    assert found.teacher == teacher_accuracy(teacher, split, torch.device("cpu"))
    report = json.loads((out / "report.json").read_text())["accuracy"]
    assert report["teacher"] == found.teacher and report["samples"] == found.samples == 400
    assert report["aggregated"] == found.calibrated.aggregated
    assert report["members"] == list(found.calibrated.members)
    assert report["members_untrained"] == list(found.untrained.members)
    assert report["aggregated_untrained"] == found.untrained.aggregated
    assert report["subsets"] == found.calibrated.subsets
