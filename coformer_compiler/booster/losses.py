"""What a student is told: eq. (14), and soft targets beside it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from coformer_compiler.booster.options import BoosterOptions
from coformer_compiler.model.averaged import Averaged
from coformer_compiler.tasks import CLASSIFICATION, Task


@dataclass(frozen=True)
class Targets:
    """What a batch should come out as.

    Attributes:
        labels: `(batch,)`, or as the task has them.
        teacher: the teacher's logits `(batch, classes)`.
        task: what the labels mean.
    """

    labels: torch.Tensor
    teacher: torch.Tensor
    task: Task = CLASSIFICATION


def hard_loss(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Eq. (14) without the weights, per sample `(batch,)`.

    Half the loss against the label, half that against the teacher's hard decision.
    """
    task = targets.task
    return (task.loss(logits, targets.labels) + task.loss(logits, task.decision(targets.teacher, targets.labels))) / 2


def soft_loss(logits: torch.Tensor, targets: Targets, temperature: float) -> torch.Tensor:
    """Divergence of the student from the teacher at a temperature, per sample `(batch,)`."""
    return targets.task.soft_loss(logits, targets.teacher, temperature, targets.labels)


def token_loss(found: Averaged, wanted: torch.Tensor) -> torch.Tensor:
    """How far tokens are from the teacher's, in parts of the teacher's own size, per sample `(batch,)`, float32.

    Args:
        found: in the teacher's features.
        wanted: the teacher's, like `found.tokens`.
    """
    return found.sums((found.tokens.float() - wanted).square().sum(-1)) / found.sums(wanted.square().sum(-1))


def distillation_loss(logits: torch.Tensor, targets: Targets, options: BoosterOptions) -> torch.Tensor:
    """The loss of the options, per sample `(batch,)`, in float32 whatever the logits come in."""
    logits = logits.float()
    loss = hard_loss(logits, targets)
    if options.soft_targets == 0:
        return loss
    return loss.lerp(soft_loss(logits, targets, options.temperature), options.soft_targets)
