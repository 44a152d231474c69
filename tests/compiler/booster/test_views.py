"""Views of training images, and the teacher's answers to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from coformer_compiler.booster.batches import batch_of_step
from coformer_compiler.booster.options import BoosterOptions
from coformer_compiler.booster.ranks import Ranks
from coformer_compiler.booster.schedule import batch_indices
from coformer_compiler.booster.teacher import lessons_from_teacher
from coformer_compiler.booster.views import distorted, view_of
from coformer_compiler.booster.weights import equal_weights
from coformer_compiler.progress import SilentProgress
from tests.compiler.booster.small import small_split, small_teacher

ALONE = Ranks(0, 1, torch.device("cpu"))


@pytest.mark.parametrize("augmentation", ["shift", "distort"])
@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (2, 3, 224, 160)])
def test_nothing_drawn_leaves_an_image_as_it_is(augmentation: str, shape: tuple[int, ...]) -> None:
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    assert torch.equal(distorted(images, torch.zeros(2, 6), augmentation), images)  # type: ignore[arg-type]


def test_a_shift_moves_by_a_sixteenth_of_the_side_and_black_comes_in() -> None:
    image = torch.full((1, 1, 32, 32), 200, dtype=torch.uint8)
    drawn = torch.tensor([[1.0, 1, 1, 1, 1, 0]])
    moved = distorted(image, drawn, "shift")
    assert (moved[0, 0] == 200).sum(1).tolist() == [30] * 32
    assert bool((moved[0, 0, :, -2:] == 0).all())
    assert not torch.equal(distorted(image, drawn, "distort"), moved)


def test_a_view_depends_on_sample_and_view_and_not_on_the_batch() -> None:
    options = BoosterOptions(augmentation="distort", seed=3)
    images = torch.from_numpy(small_split(20, 0).inputs)
    every = np.arange(20)
    whole = view_of(images, every, every % 4, 20, options)
    part = view_of(images[[7, 2]], np.array([7, 2]), np.array([3, 2]), 20, options)
    assert torch.equal(part, whole[[7, 2]])
    assert torch.equal(whole[::4], images[::4]), "view 0 is the image itself"
    assert not torch.equal(whole[1], images[1])


def test_a_batch_comes_with_what_the_teacher_said_to_the_very_views_in_it(tmp_path: Path) -> None:
    options = BoosterOptions(augmentation="distort", views=3, batch=40)
    teacher, split = small_teacher(), small_split(96, 1)
    lessons = lessons_from_teacher(teacher, split, options, "0" * 16, tmp_path, ALONE, SilentProgress())
    assert lessons.features.shape == (3, 96, 12)
    batch = batch_of_step(lessons, equal_weights(96), options, 0, 5, ALONE)
    with torch.no_grad():
        assert torch.allclose(teacher(batch.inputs), batch.targets.teacher, atol=1e-5)
    picked = batch_indices(96, 40, 0, 0, 5)
    changed = [not np.array_equal(seen, split.inputs[i]) for seen, i in zip(batch.inputs.numpy(), picked, strict=True)]
    assert 10 < sum(changed) < 40
    assert batch.targets.labels.tolist() == split.labels[picked].tolist()
