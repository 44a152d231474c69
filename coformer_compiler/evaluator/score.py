"""The evaluator: what a decomposition is worth before it is trained, Ψ = loss + δ·T (problem (P1)).

The loss is that of the aggregated, transplanted, untrained system on the validation split. Measured against the loss
after a short distillation it ranks policies far better than the paper's mean over members, which cannot see whether
members complement each other; that mean is reported beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from coformer_compiler.data.dataset import Split
from coformer_compiler.decomposer.dealing import members_from_shapes
from coformer_compiler.decomposer.shapes import MemberShape, aggregator_cost, cost_of_spec, member_cost
from coformer_compiler.device import Device
from coformer_compiler.evaluator.latency import Latency, Network, estimated_latency
from coformer_compiler.model.transformer import Transformer
from coformer_compiler.transplant.basis import BasisKind
from coformer_compiler.transplant.readout import fit_readouts
from coformer_compiler.transplant.statistics import Statistics
from coformer_compiler.transplant.transplant import transplant

BATCH = 128


@dataclass(frozen=True)
class Score:
    """One evaluated decomposition.

    Attributes:
        objective: Ψ, to be minimised.
        loss: cross-entropy of the aggregated, untrained system, nats.
        members_loss: mean over the members alone, eq. (7).
        latency: estimated.
    """

    objective: float
    loss: float
    members_loss: float
    latency: Latency


class Evaluator:
    """Scores shapes; holds the calibration images and the teacher's features on them."""

    def __init__(
        self,
        teacher: Transformer,
        statistics: Statistics,
        devices: Sequence[Device],
        calibration: Split,
        validation: Split,
        *,
        basis: BasisKind,
        network: Network,
        delta: float,
        overlap: bool,
    ) -> None:
        """`calibration` may be a prefix of the build's: the search needs a ranking, not the last digit."""
        self.teacher, self.statistics, self.devices = teacher, statistics, tuple(devices)
        self.basis, self.network, self.delta, self.overlap = basis, network, delta, overlap
        self.device = teacher.device
        self.pixels = torch.from_numpy(np.ascontiguousarray(calibration.inputs))
        self.validation = torch.from_numpy(np.ascontiguousarray(validation.inputs))
        self.labels = torch.from_numpy(np.ascontiguousarray(validation.labels)).to(self.device)
        with torch.no_grad():
            self.lessons = [(part, teacher.features(part)) for part in self._parts(self.pixels)]
        self.scores = {
            (block.kind, block.layer): scores
            for block, scores in zip(teacher.residuals, statistics.scores, strict=True)
        }
        # T is in units of the teacher's latency on the fastest device, so that δ means the same for every cluster.
        fastest = max(device.gflops for device in devices)
        self.unit_ms = cost_of_spec(teacher.spec, with_head=True).flops / (fastest * 1e6)

    def latency(self, shapes: Sequence[MemberShape]) -> Latency:
        """Estimated latency of members of the given shapes."""
        costs = [member_cost(self.teacher.spec, s, shortcuts=self.basis == "per-norm") for s in shapes]
        copies = self.teacher.spec.features // self.teacher.spec.embed
        widths = [shape.embed * copies for shape in shapes]
        aggregator = aggregator_cost(widths, self.teacher.spec.head)
        return estimated_latency(self.devices, costs, [4 * width for width in widths], aggregator, self.network)

    @torch.no_grad()
    def score(self, shapes: Sequence[MemberShape]) -> Score:
        """Transplant members of these shapes, without training, and weigh loss against latency."""
        names = [device.name for device in self.devices]
        policies = members_from_shapes(names, shapes, self.scores, None, overlap=self.overlap)
        made = transplant(self.teacher, self.statistics, policies, self.pixels, basis=self.basis)
        aggregator = fit_readouts(made.members, self.teacher.head, self.lessons, made.priors)
        features = [
            torch.cat([member.features(part) for part in self._parts(self.validation)]) for member in made.members
        ]
        loss = float(F.cross_entropy(aggregator(dict(enumerate(features))), self.labels))
        alone = [
            float(F.cross_entropy(member.head(each), self.labels))
            for member, each in zip(made.members, features, strict=True)
        ]
        latency = self.latency(shapes)
        objective = loss + self.delta * latency.total_ms / self.unit_ms
        return Score(objective, loss, sum(alone) / len(alone), latency)

    def _parts(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [part.to(self.device) for part in images.split(BATCH)]
