"""What a student is told: eq. (14), and soft targets beside it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from coformer_compiler.booster.options import BoosterOptions


@dataclass(frozen=True)
class Targets:
    """What a batch should come out as.

    Attributes:
        labels: int64 `(batch,)`.
        teacher: the teacher's logits `(batch, classes)`.
    """

    labels: torch.Tensor
    teacher: torch.Tensor


def hard_loss(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Eq. (14) without the weights, per sample `(batch,)`.

    Half the cross-entropy with the label, half that with the teacher's hard decision.
    """
    label = F.cross_entropy(logits, targets.labels, reduction="none")
    decision = F.cross_entropy(logits, targets.teacher.argmax(-1), reduction="none")
    return (label + decision) / 2


def soft_loss(logits: torch.Tensor, targets: Targets, temperature: float) -> torch.Tensor:
    """KL divergence of the student from the teacher at a temperature, per sample `(batch,)`.

    Times the squared temperature, so that gradients keep their size when the temperature changes.
    """
    student = F.log_softmax(logits / temperature, -1)
    teacher = F.log_softmax(targets.teacher / temperature, -1)
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1) * temperature**2


def distillation_loss(logits: torch.Tensor, targets: Targets, options: BoosterOptions) -> torch.Tensor:
    """The loss of the options, per sample `(batch,)`, in float32 whatever the logits come in."""
    logits = logits.float()
    loss = hard_loss(logits, targets)
    if options.soft_targets == 0:
        return loss
    return loss.lerp(soft_loss(logits, targets, options.temperature), options.soft_targets)
