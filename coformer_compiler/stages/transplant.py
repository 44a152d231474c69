"""Stage "transplant": a policy to members with weights, no gradient step."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from coformer_compiler.artifact import Artifact, Store
from coformer_compiler.compute import computing_device
from coformer_compiler.config import PolicySection
from coformer_compiler.data.dataset import DataSet, Split
from coformer_compiler.decomposer.policy import MemberPolicy, Policy
from coformer_compiler.model.aggregator import Aggregator
from coformer_compiler.model.system import save_system
from coformer_compiler.model.transformer import Selection, Transformer
from coformer_compiler.progress import Progress
from coformer_compiler.stages.batches import batches_of
from coformer_compiler.stages.calibrate import statistics_of
from coformer_compiler.transplant.basis import BasisKind
from coformer_compiler.transplant.readout import fit_readouts
from coformer_compiler.transplant.statistics import Statistics
from coformer_compiler.transplant.transplant import transplant
from coformer_compiler.transplant.walker import Match

RESULT = "transplant.json"


@dataclass(frozen=True)
class Candidate:
    """Members by one basis, and the validation loss of their aggregated system in nats."""

    basis: str | None
    members: list[Transformer]
    aggregator: Aggregator
    matches: list[Match]
    loss: float


def transplant_members(
    store: Store,
    parents: Sequence[Artifact],
    teacher: Transformer,
    policy: Policy,
    data: DataSet,
    section: PolicySection,
) -> Artifact:
    """Members and aggregator before any training.

    Args:
        store: where the artifact goes.
        parents: the artifacts of import, calibrate and decompose.
        teacher: the imported model.
        policy: the decomposition.
        data: calibrated on its calibration split; the basis is chosen on its validation split.
        section: method and basis.
    """

    def make(folder: Path, _work: Path) -> None:
        device = computing_device()
        teacher.to(device)
        candidates = [
            _candidate(teacher, statistics_of(parents[1]), policy, data, basis, store.progress)
            for basis in _bases(section, teacher)
        ]
        best = min(candidates, key=lambda candidate: candidate.loss)
        teacher.cpu()
        save_system(folder, [member.cpu() for member in best.members], best.aggregator.cpu())
        result = {
            "basis": best.basis,
            "losses": {str(candidate.basis): candidate.loss for candidate in candidates},
            "matches": [asdict(match) for match in best.matches],
        }
        (folder / RESULT).write_text(json.dumps(result, indent=1, sort_keys=True), encoding="utf-8")

    options = {"method": section.method, "basis": section.basis, "data": data.sha256}
    return store.stage("transplant", parents, options, make)


def transplant_result(artifact: Artifact) -> tuple[str | None, list[Match], dict[str, float]]:
    """(the basis that was kept, how each linear was matched, validation loss by basis)."""
    result = json.loads((artifact.path / RESULT).read_text(encoding="utf-8"))
    return result["basis"], [Match(**match) for match in result["matches"]], result["losses"]


def _bases(section: PolicySection, teacher: Transformer) -> list[BasisKind | None]:
    if section.method == "index":
        return [None]
    if section.basis == "auto":
        return ["per-norm"] if teacher.spec.post_norm else ["global", "per-norm"]
    return [section.basis]


@torch.no_grad()
def _candidate(
    teacher: Transformer,
    statistics: Statistics,
    policy: Policy,
    data: DataSet,
    basis: BasisKind | None,
    progress: Progress,
) -> Candidate:
    device = teacher.device
    matches: list[Match] = []
    priors: list[torch.Tensor] | None = None
    if basis is None:
        members = [teacher.take(selection_of(member)) for member in policy.members]
    else:
        inputs = torch.from_numpy(np.ascontiguousarray(data.calibration.inputs))
        with progress.stage(f"{basis} basis", total=len(teacher.residuals), unit="sub-block") as stage:
            made = transplant(teacher, statistics, policy.members, inputs, basis=basis, advance=stage.advance)
        members, matches, priors = made.members, made.matches, made.priors
    lessons = [(inputs, teacher.features(inputs)) for inputs, _ in batches_of(data.calibration, device)]
    aggregator = fit_readouts(members, teacher.head, lessons, priors)
    loss = system_loss(members, aggregator, data.validation, device)
    return Candidate(basis, members, aggregator, matches, loss)


def selection_of(member: MemberPolicy) -> Selection:
    """The index slice that a member's policy describes."""
    assert member.channels is not None
    return Selection(
        member.channels,
        {share.layer: share.heads for share in member.layers},
        {share.layer: share.neurons for share in member.layers},
        {share.layer: share.cross for share in member.layers},
    )


@torch.no_grad()
def system_loss(members: Sequence[Transformer], aggregator: Aggregator, split: Split, device: torch.device) -> float:
    """Mean loss of the aggregated system against the labels: for classes cross-entropy, in nats."""
    total = 0.0
    for inputs, labels in batches_of(split, device):
        logits = aggregator({n: member.features(inputs) for n, member in enumerate(members)})
        total += float(split.task.loss(logits, labels).sum())
    return total / len(split)
