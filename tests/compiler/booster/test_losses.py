"""Eq. (14) against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from coformer_compiler.booster.losses import Targets, distillation_loss, hard_loss, soft_loss
from coformer_compiler.booster.options import BoosterOptions

# softmax(ln 2, 0, 0) = 1/2, 1/4, 1/4
LOGITS = torch.tensor([[math.log(2), 0.0, 0.0], [0.0, 0.0, 0.0]])
# The teacher decides 0, against the label 1, on the first sample, and 2 with the label on the second.
TARGETS = Targets(torch.tensor([1, 2]), torch.tensor([[3.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))


def test_half_of_the_loss_is_for_the_label_and_half_for_the_teachers_decision() -> None:
    wanted = [(math.log(4) + math.log(2)) / 2, math.log(3)]
    assert hard_loss(LOGITS, TARGETS).tolist() == pytest.approx(wanted, abs=1e-6)


def test_the_papers_letter_is_the_default() -> None:
    assert torch.equal(distillation_loss(LOGITS, TARGETS, BoosterOptions()), hard_loss(LOGITS, TARGETS))


def test_soft_loss_is_the_divergence_at_the_temperature_times_its_square() -> None:
    targets = Targets(TARGETS.labels, torch.tensor([[2 * math.log(2), 0.0, 0.0], [0.0, 0.0, 0.0]]))
    logits = torch.zeros(2, 3)
    # At temperature 2 the teacher says 1/2, 1/4, 1/4 and the student 1/3 each.
    divergence = math.log(3) - (math.log(2) / 2 + math.log(4) / 2)
    assert soft_loss(logits, targets, 2).tolist() == pytest.approx([4 * divergence, 0], abs=1e-6)


def test_soft_targets_are_a_share_of_the_loss() -> None:
    options = BoosterOptions(soft_targets=0.25, temperature=3)
    wanted = 0.75 * hard_loss(LOGITS, TARGETS) + 0.25 * soft_loss(LOGITS, TARGETS, 3)
    assert torch.allclose(distillation_loss(LOGITS, TARGETS, options), wanted)


def test_half_precision_logits_give_a_float32_loss() -> None:
    assert distillation_loss(LOGITS.bfloat16(), TARGETS, BoosterOptions()).dtype == torch.float32
