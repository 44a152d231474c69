"""What a student is told in each task."""

from __future__ import annotations

import pytest
import torch

from coformer_compiler.booster.losses import Targets, distillation_loss, hard_loss
from coformer_compiler.booster.options import BoosterOptions
from coformer_compiler.tasks import EMBEDDING, REGRESSION


def test_a_number_is_pulled_to_label_and_teacher() -> None:
    answers, teacher, labels = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [4.0]]), torch.tensor([3.0, 2.0])
    targets = Targets(labels, teacher, REGRESSION)
    assert hard_loss(answers, targets).tolist() == [2.0, 2.0]
    soft = distillation_loss(answers, targets, BoosterOptions(soft_targets=1.0))
    assert soft.tolist() == [0.0, 4.0]


def test_an_embedding_is_pulled_to_the_teachers_direction() -> None:
    teacher = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    targets = Targets(teacher, teacher, EMBEDDING)
    answers = torch.tensor([[5.0, 0.0], [1.0, 0.0]])
    assert hard_loss(answers, targets).tolist() == pytest.approx([0.0, 1.0])


def test_the_probe_of_embeddings_moves_where_the_loss_does_not() -> None:
    teacher = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    answers = teacher.clone().requires_grad_()
    (flat,) = torch.autograd.grad(EMBEDDING.loss(answers, teacher).sum(), answers)
    (steep,) = torch.autograd.grad(EMBEDDING.probe(answers, teacher).sum(), answers)
    assert flat.abs().max() < 1e-6
    assert steep.abs().max() > 1e-2
