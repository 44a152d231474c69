"""The evaluator: what a decomposition is worth before it is trained, Ψ = loss + δ·T (problem (P1)).

The loss is that of the aggregated, transplanted, untrained system on the validation split. Measured against the loss
after a short distillation it ranks policies far better than the paper's mean over members, eq. (7), which cannot see
whether members complement each other (`benchmarks/search/fidelity.py`); that one is reported beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from coformer_compiler.data.dataset import Split
from coformer_compiler.decomposer.dealing import members_from_shapes
from coformer_compiler.decomposer.policy import teacher_shape
from coformer_compiler.decomposer.shapes import MaybeShape, full_shape, kept_of
from coformer_compiler.device import Device
from coformer_compiler.evaluator.compute import compute_model
from coformer_compiler.evaluator.energy import estimated_energy_mj
from coformer_compiler.evaluator.latency import Latency, LatencyModel, Network, head_flops
from coformer_compiler.model.spec import TransformerSpec
from coformer_compiler.model.transformer import Transformer
from coformer_compiler.profiling.table import table_of_shapes
from coformer_compiler.transplant.basis import BasisKind
from coformer_compiler.transplant.lesson import lesson_of, lesson_with_walk
from coformer_compiler.transplant.readout import readout_of
from coformer_compiler.transplant.regression import SplitGram
from coformer_compiler.transplant.statistics import Statistics
from coformer_compiler.transplant.transplant import transplant_lesson

Loss = Literal["aggregated", "members"]

ROWS = 8192
"""Rows of the stream (samples × tokens) in one batch."""
WALK_BYTES = 2**31
"""The teacher's streams are kept while they need no more than this; beyond, every candidate walks the teacher anew."""
PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Fewer than a build tries: a candidate's rank does not hang on the last half decade."""
SKETCH = 64
"""Directions of the outputs that penalties are chosen by."""


@dataclass(frozen=True)
class Score:
    """One evaluated decomposition.

    Attributes:
        objective: Ψ, to be minimised.
        loss: cross-entropy of the aggregated, untrained system, nats.
        members_loss: mean over the members alone, eq. (7).
        latency: predicted, or estimated (see `LatencyModel`); of the devices that take part.
        energy_mj: estimated, of all devices together.
    """

    objective: float
    loss: float
    members_loss: float
    latency: Latency
    energy_mj: float


def unit_ms(teacher: TransformerSpec, devices: Sequence[Device]) -> float:
    """The unit of T: the teacher's latency on the device that is fastest with it, so that δ means the same everywhere.

    It rests on what the device's other latencies rest on (see `compute_model`); the head's part on FLOPS, as t3 does.
    """
    whole = table_of_shapes([full_shape(teacher_shape(teacher))], len(teacher.layers), shortcuts=False)
    head = head_flops(teacher.head, np.array([teacher.features]))[0]
    return min(
        float(compute_model(device, teacher).latency_ms(teacher, whole)[0] + head / (device.gflops * 1e6))
        for device in devices
    )


class Evaluator:
    """Scores shapes; holds the teacher's streams on the calibration samples."""

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
        loss: Loss = "aggregated",
    ) -> None:
        """`calibration` may be a prefix of the build's: the search needs a ranking, not the last digit.

        Args:
            teacher: the model.
            statistics: its statistics on the build's calibration samples.
            devices: in member order.
            calibration: candidates are fitted on it.
            validation: candidates are judged by it.
            basis: of the members.
            network: the link.
            delta: weight of latency; the teacher's on the fastest device is 1.
            loss: which loss the objective counts.
        """
        self.teacher, self.devices = teacher, tuple(devices)
        self.basis, self.delta, self.loss = basis, delta, loss
        self.latencies = LatencyModel(teacher.spec, devices, network)
        self.inputs = torch.from_numpy(np.ascontiguousarray(calibration.inputs))
        self.validation = torch.from_numpy(np.ascontiguousarray(validation.inputs))
        self.labels = torch.from_numpy(np.ascontiguousarray(validation.labels)).to(teacher.device)
        self.task = validation.task
        self.batch = max(1, ROWS // teacher.spec.stem.tokens)
        kept = 4 * len(self.inputs) * teacher.spec.stem.tokens * teacher.spec.embed * (len(teacher.residuals) + 1)
        lesson = (
            lesson_with_walk(teacher, statistics, self.inputs, basis, self.batch)
            if kept <= WALK_BYTES
            else lesson_of(teacher, statistics, basis)
        )
        # Without the second regression of the values: it ranks much the same (Spearman 0.92 over 24 policies of the
        # digits teacher) and costs less.
        self.lesson = replace(lesson, penalties=PENALTIES, sketch=SKETCH, refit_values=False)
        self.features = self._teacher_features() if self.lesson.walk is None else self.lesson.walk.features
        self.scores: dict[tuple[str, int], torch.Tensor] = {
            (block.kind, block.layer): scores
            for block, scores in zip(teacher.residuals, statistics.scores, strict=True)
        }
        self.unit_ms = unit_ms(teacher.spec, devices)

    @property
    def shortcuts(self) -> bool:
        """Whether members have shortcut matrices."""
        return self.basis == "per-norm"

    def latency(self, shapes: Sequence[MaybeShape]) -> Latency:
        """Predicted latency of members of the given shapes, without the devices that are left out."""
        return self.latencies.of_shapes(shapes, shortcuts=self.shortcuts)

    @torch.no_grad()
    def score(self, shapes: Sequence[MaybeShape]) -> Score:
        """Transplant members of these shapes, without training, and weigh loss against latency."""
        devices, kept = kept_of(self.devices, shapes)
        names = [device.name for device in devices]
        policies = members_from_shapes(names, kept, self.scores, None)
        made = transplant_lesson(self.lesson, policies, self.inputs, batch=self.batch)
        widths = [member.spec.features for member in made.members]
        gram = SplitGram(sum(widths), self.features.shape[-1], self.features.device)
        real = self.teacher.feature_mask(self.inputs.to(self.features.device))
        gram.add(torch.cat(made.features, -1), self.features, 0, real)
        ends = np.cumsum([0, *widths])
        columns = [list(range(ends[n], ends[n + 1])) for n in range(len(widths))]
        features = [self._features_of(member) for member in made.members]
        everyone = tuple(range(len(widths)))

        def loss(subset: Sequence[int]) -> float:
            fit = readout_of(gram, [c for n in subset for c in columns[n]], subset, made.priors)
            logits = self.teacher.head.after(fit.weight, fit.bias)(torch.cat([features[n] for n in subset], -1))
            return float(self.task.loss(logits, self.labels).mean())

        together, alone = loss(everyone), [loss((n,)) for n in everyone]
        mean = sum(alone) / len(alone)
        latency = self.latency(shapes)
        counted = together if self.loss == "aggregated" else mean
        objective = counted + self.delta * latency.total_ms / self.unit_ms
        return Score(objective, together, mean, latency, estimated_energy_mj(devices, latency))

    @torch.no_grad()
    def _teacher_features(self) -> torch.Tensor:
        return torch.cat([self.teacher.features(p.to(self.teacher.device)) for p in self.inputs.split(self.batch)])

    def _features_of(self, member: Transformer) -> torch.Tensor:
        return torch.cat([member.features(p.to(self.teacher.device)) for p in self.validation.split(self.batch)])
