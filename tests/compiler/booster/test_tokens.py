"""Learning from the teacher's tokens, before they are averaged."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from coformer_compiler.booster import BoosterOptions, boost
from coformer_compiler.booster.batches import Lessons, batch_of_step
from coformer_compiler.booster.losses import token_loss
from coformer_compiler.booster.ranks import Ranks
from coformer_compiler.booster.teacher import lessons_from_teacher
from coformer_compiler.booster.weights import equal_weights
from coformer_compiler.data import Split
from coformer_compiler.model.averaged import Averaged, averaged
from coformer_compiler.model.transformer import Transformer
from coformer_compiler.progress import SilentProgress
from coformer_compiler.tasks import EMBEDDING
from coformer_runtime.errors import CoformerError
from tests.compiler.booster.small import small_boost
from tests.compiler.tiny import VARIANTS, random_inputs, random_model

ALONE = Ranks(0, 1, torch.device("cpu"))


def embedder(seed: int = 4) -> Transformer:
    return random_model(VARIANTS["text, mean"], seed=seed)


def split_for(teacher: Transformer, samples: int, seed: int) -> Split:
    inputs = random_inputs(teacher.spec, samples, seed)
    with torch.no_grad():
        labels = teacher(inputs)
    return Split(inputs.numpy(), labels.numpy(), EMBEDDING)


def lessons_of(teacher: Transformer, split: Split, folder: Path, options: BoosterOptions) -> Lessons:
    return lessons_from_teacher(teacher, split, options, "0" * 16, folder, ALONE, SilentProgress())


def test_the_loss_is_the_share_of_the_tokens_that_is_missed() -> None:
    wanted = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 1.0]])
    found = Averaged(wanted + torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]]), torch.tensor([1, 2]))
    assert token_loss(found, wanted).tolist() == [1.0, 0.5]


def test_a_batch_has_the_tokens_of_its_samples(tmp_path: Path) -> None:
    teacher = embedder()
    split, options = split_for(teacher, 30, 1), BoosterOptions(batch=8, token_loss=1.0, seed=3)
    lessons = lessons_of(teacher, split, tmp_path, options)
    batch = batch_of_step(lessons, equal_weights(30), options, 0, 2, ALONE)
    with torch.no_grad():
        wanted = averaged(teacher, batch.inputs)
    assert batch.tokens is not None
    torch.testing.assert_close(batch.tokens, wanted.tokens, atol=2e-3, rtol=2e-3)
    np.testing.assert_allclose(
        lessons.features[0], teacher.features(torch.from_numpy(split.inputs)).detach(), atol=1e-5
    )


def test_where_the_data_has_no_labels_they_are_the_teachers_answers(tmp_path: Path) -> None:
    teacher, options = embedder(), BoosterOptions(batch=8)
    inputs = split_for(teacher, 16, 1).inputs
    lessons = lessons_of(teacher, Split(inputs, np.zeros(16, np.float32), EMBEDDING), tmp_path, options)
    batch = batch_of_step(lessons, equal_weights(16), options, 0, 0, ALONE)
    with torch.no_grad():
        torch.testing.assert_close(batch.targets.labels, teacher(batch.inputs), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", [BoosterOptions(), BoosterOptions(token_loss=1.0, joint_steps=0)])
def test_tokens_are_kept_only_where_somebody_learns_from_them(tmp_path: Path, options: BoosterOptions) -> None:
    teacher = embedder()
    assert lessons_of(teacher, split_for(teacher, 4, 1), tmp_path, options).tokens is None
    assert not list(tmp_path.glob("*/tokens.npy"))


def test_members_come_nearer_to_the_teachers_tokens(tmp_path: Path) -> None:
    teacher = embedder()
    train, validation = split_for(teacher, 64, 1), split_for(teacher, 32, 2)

    def missed(token_weight: float) -> float:
        options = BoosterOptions(
            steps=0, joint_steps=30, joint_learning_rate=3e-3, batch=16, token_loss=token_weight, member_loss=0
        )
        members = [copy.deepcopy(embedder(seed)) for seed in (5, 6)]
        folder = tmp_path / str(token_weight)
        result = boost(teacher, members, train, validation, options, folder, SilentProgress())
        inputs = torch.from_numpy(validation.inputs)
        with torch.no_grad():
            parts = [averaged(member, inputs) for member in result.members]
            mixed = result.aggregator.mixer((0, 1))(torch.cat([part.tokens for part in parts], -1))
            wanted = averaged(teacher, inputs).tokens
            return float(token_loss(Averaged(mixed, parts[0].lengths), wanted).mean())

    assert missed(1.0) < 0.9 * missed(0.0)


def test_half_precision_learns_what_float32_learns(tmp_path: Path) -> None:
    teacher = embedder()
    train, validation = split_for(teacher, 64, 1), split_for(teacher, 32, 2)
    curves = []
    for half in (False, True):
        options = BoosterOptions(steps=0, joint_steps=20, joint_learning_rate=3e-3, batch=16, token_loss=1.0, half=half)
        members = [copy.deepcopy(embedder(seed)) for seed in (5, 6)]
        result = boost(teacher, members, train, validation, options, tmp_path / str(half), SilentProgress())
        assert {p.dtype for member in result.members for p in member.parameters()} == {torch.float32}
        curves.append([point.loss for point in result.history.curves["joint"] if point.loss is not None])
    assert curves[0] != curves[1], "nothing was computed in bfloat16"
    assert curves[0] == pytest.approx(curves[1], rel=0.05)


def test_a_model_that_averages_nothing_has_no_tokens_to_compare(tmp_path: Path) -> None:
    message = (
        "boost.token_loss: token_loss = 0.5 compares tokens before they are averaged, and this model's features are no "
        "mean of tokens; set it to 0"
    )
    with pytest.raises(CoformerError, match=re.escape(message)):
        small_boost(tmp_path, BoosterOptions(token_loss=0.5))
