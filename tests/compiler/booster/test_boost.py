"""The booster as a whole, on models that train in a second."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from coformer_compiler.booster import BoosterOptions, BoosterResult
from coformer_compiler.booster.history import history_from_json
from coformer_compiler.booster.judge import judge_all
from coformer_compiler.model.aggregator import subsets_of
from coformer_compiler.progress import RichProgress
from coformer_runtime.errors import CoformerError
from tests.compiler.booster.small import small_boost, small_members, small_model, small_split

OPTIONS = BoosterOptions(steps=30, batch=32, learning_rate=1e-2, joint_steps=20, checkpoint_every=8, device="cpu")


@pytest.fixture(scope="module")
def boosted(tmp_path_factory: pytest.TempPathFactory) -> BoosterResult:
    return small_boost(tmp_path_factory.mktemp("boost"), OPTIONS)


def test_members_learn(boosted: BoosterResult) -> None:
    for n in range(3):
        curve = boosted.history.curves[f"member {n}"]
        assert curve[-1].step == 30
        assert curve[1].loss is not None and curve[-1].loss is not None and curve[-1].loss < curve[1].loss
        assert curve[0].validation_accuracy is not None and curve[-1].validation_accuracy is not None
        assert curve[-1].validation_accuracy > curve[0].validation_accuracy
    assert boosted.history.subsets["0-1-2"].accuracy >= 0.95


def test_every_subset_has_a_finite_aggregator(boosted: BoosterResult) -> None:
    assert boosted.aggregator.subsets == tuple(subsets_of(3))
    for subset in boosted.aggregator.subsets:
        logits = boosted.aggregator({n: torch.ones(4, boosted.aggregator.widths[n]) for n in subset})
        assert logits.shape == (4, 3) and bool(logits.isfinite().all())


def test_history_tells_the_verdicts_of_what_is_returned_and_survives_json(boosted: BoosterResult) -> None:
    alone, together = judge_all(boosted.members, boosted.aggregator, small_split(48, 2), torch.device("cpu"))
    assert (boosted.history.members, boosted.history.subsets) == (alone, together)
    assert history_from_json(json.loads(json.dumps(boosted.history.to_json()))) == boosted.history


def test_training_that_does_harm_is_dropped(boosted: BoosterResult, tmp_path: Path) -> None:
    options = replace(OPTIONS, steps=5, joint_steps=0, learning_rate=1.0, refit_heads=False)
    harmed = small_boost(tmp_path, options, list(boosted.members))
    assert harmed.history.reverted == (0, 1, 2)
    for start, member in zip(boosted.members, harmed.members, strict=True):
        for name, tensor in start.state_dict().items():
            assert torch.equal(member.state_dict()[name], tensor), name
    assert boosted.history.reverted == ()


def test_the_members_that_were_given_stay_as_they_are(tmp_path: Path) -> None:
    members = small_members()
    small_boost(tmp_path, replace(OPTIONS, steps=2, joint_steps=2), members)
    for member, untouched in zip(members, small_members(), strict=True):
        for name, tensor in untouched.state_dict().items():
            assert torch.equal(member.state_dict()[name], tensor), name


def test_no_steps_leave_members_as_they_come_and_fit_the_aggregator(tmp_path: Path) -> None:
    result = small_boost(tmp_path, replace(OPTIONS, steps=0, joint_steps=0, refit_heads=False))
    for member, given in zip(result.members, small_members(), strict=True):
        for name, tensor in given.state_dict().items():
            assert torch.equal(member.state_dict()[name], tensor), name
    assert result.history.curves == {} and result.history.joint is None
    assert result.history.subsets["0-1-2"].accuracy > 0.8


def test_a_head_is_refitted_only_where_that_validates_better(boosted: BoosterResult) -> None:
    assert len(boosted.history.heads) >= 3
    for choice in boosted.history.heads:
        assert choice.refitted == (choice.refitted_head.loss < choice.trained_head.loss)


def test_a_joint_phase_that_does_harm_is_not_kept(tmp_path: Path) -> None:
    without = small_boost(tmp_path / "without", replace(OPTIONS, joint_steps=0))
    harmed = small_boost(tmp_path / "with", replace(OPTIONS, joint_steps=5, joint_learning_rate=3.0))
    decision = harmed.history.joint
    assert decision is not None and not decision.kept
    assert "fell from" in decision.reason
    for kept, wanted in zip((*harmed.members, harmed.aggregator), (*without.members, without.aggregator), strict=True):
        for name, tensor in wanted.state_dict().items():
            assert torch.equal(kept.state_dict()[name], tensor), name
    assert harmed.history.subsets == without.history.subsets
    assert harmed.history.heads == without.history.heads


def test_a_joint_phase_that_helps_is_kept(tmp_path: Path) -> None:
    options = replace(OPTIONS, steps=0, joint_steps=60, joint_learning_rate=1e-2)
    # One narrow member with random weights: no closed form makes up for that, training does.
    decision = small_boost(tmp_path, options, [small_model(4, 5)]).history.joint
    assert decision is not None and decision.kept
    assert decision.after.better_than(decision.before)


@pytest.mark.parametrize("weighting", ["paper", "samme-r"])
def test_weighting_changes_what_the_second_member_learns_and_not_the_first(tmp_path: Path, weighting: str) -> None:
    options = replace(OPTIONS, joint_steps=0, refit_heads=False)
    plain = small_boost(tmp_path / "plain", options)
    weighted = small_boost(tmp_path / "weighted", replace(options, weighting=weighting))  # type: ignore[arg-type]
    same = [
        torch.equal(one.head.linear.weight, other.head.linear.weight)
        for one, other in zip(plain.members, weighted.members, strict=True)
    ]
    assert same == [True, False, False]


def test_soft_targets_and_distortions_train(tmp_path: Path) -> None:
    options = replace(OPTIONS, soft_targets=0.5, augmentation="distort", joint_steps=0)
    curve = small_boost(tmp_path, options).history.curves["member 0"]
    assert curve[1].loss is not None and curve[-1].loss is not None and curve[-1].loss < curve[1].loss


def test_a_loss_that_is_not_finite_names_member_step_and_mend(tmp_path: Path) -> None:
    with pytest.raises(CoformerError) as failure:
        small_boost(tmp_path, replace(OPTIONS, learning_rate=1e20))
    assert failure.value.where.startswith("boost, member 0, step ")
    assert failure.value.where != "boost, member 0, step 0"
    assert "the loss became" in failure.value.what
    assert failure.value.mend == "lower boost.learning_rate (now 1e+20)"


def test_weights_that_were_never_finite_are_not_blamed_on_the_learning_rate(tmp_path: Path) -> None:
    members = small_members()
    with torch.no_grad():
        members[1].head.linear.bias[0] = torch.nan
    with pytest.raises(CoformerError, match="boost, member 1, step 0: the loss became nan; its weights give no finite"):
        small_boost(tmp_path, OPTIONS, members)


def test_progress_shows_phases_loss_and_the_decision(tmp_path: Path) -> None:
    log = io.StringIO()
    with RichProgress(Console(file=log, width=200)) as progress:
        small_boost(tmp_path, replace(OPTIONS, steps=4, joint_steps=4), progress=progress)
    text = log.getvalue()
    assert "teacher's outputs: 96 samples" in text
    for title in ("  member 0: 4 steps, ", "  member 2: 4 steps, ", "  joint: 4 steps, "):
        assert title in text
    assert "s, loss " in text and "joint phase " in text


@pytest.mark.parametrize(
    ("option", "value", "mend"),
    [
        ("steps", -1, "give 0 or more"),
        ("batch", 0, "give 1 or more"),
        ("learning_rate", 0.0, "give a number above 0"),
        ("joint_learning_rate", float("nan"), "give a number above 0"),
        ("soft_targets", 1.5, "give a share from 0 to 1"),
        ("drop", -0.1, "give a share from 0 to 1"),
        ("weighting", "adaboost", "choose one of none, paper, samme-r"),
    ],
)
def test_an_option_out_of_range_is_named(option: str, value: object, mend: str) -> None:
    with pytest.raises(CoformerError) as failure:
        BoosterOptions(**{option: value})  # type: ignore[arg-type]
    assert failure.value.where == f"boost.{option}"
    assert failure.value.mend == mend


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(CoformerError, match="there is no CUDA device"):
        small_boost(tmp_path, replace(OPTIONS, device="cuda"))
