"""Stage "decompose": devices and importance to a policy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from coformer_compiler.artifact import Artifact, Store, file_digest
from coformer_compiler.config import PolicySection
from coformer_compiler.decomposer.decompose import PolicyOptions, decompose
from coformer_compiler.decomposer.policy import Policy, policy_json, read_policy
from coformer_compiler.device import Device
from coformer_compiler.model.spec import TransformerSpec
from coformer_compiler.stages.calibrate import statistics_of

POLICY, NOTES = "policy.json", "notes.json"


def policy_options(section: PolicySection) -> PolicyOptions:
    """The options of `[policy]` that decide the policy itself.

    Costs count shortcut matrices whenever the members may get them.
    """
    shortcuts = section.method == "transplant" and section.basis != "global"
    return PolicyOptions(section.strategy, section.file, section.overlap, section.method, shortcuts)


def decompose_teacher(
    store: Store, calibration: Artifact, teacher: TransformerSpec, devices: Sequence[Device], section: PolicySection
) -> Artifact:
    """The policy as policy.json, with notes on what had to give way."""
    options = {
        "policy": section.model_dump(mode="json", exclude={"file"}),
        "file": file_digest(section.file) if section.file is not None and section.file.is_file() else None,
        "devices": [[d.name, repr(d.target), d.gflops, d.memory_mb, d.max_gflop] for d in devices],
    }

    def make(folder: Path, _work: Path) -> None:
        found = decompose(teacher, statistics_of(calibration), devices, policy_options(section))
        (folder / POLICY).write_text(policy_json(found.policy), encoding="utf-8")
        (folder / NOTES).write_text(json.dumps(found.notes), encoding="utf-8")

    return store.stage("decompose", (calibration,), options, make)


def policy_of(artifact: Artifact) -> Policy:
    """The policy on disk."""
    return read_policy(artifact.path / POLICY)


def notes_of(artifact: Artifact) -> list[str]:
    """What had to give way."""
    notes: list[str] = json.loads((artifact.path / NOTES).read_text(encoding="utf-8"))
    return notes
