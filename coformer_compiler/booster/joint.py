"""The joint phase: members and aggregator train together, with members dropped, and are kept only if that helps."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from coformer_compiler.booster.batches import Batch
from coformer_compiler.booster.combine import fit_aggregator
from coformer_compiler.booster.history import HeadChoice, JointDecision, Verdict
from coformer_compiler.booster.judge import judge_full_set
from coformer_compiler.booster.losses import distillation_loss
from coformer_compiler.booster.schedule import subset_of_step
from coformer_compiler.booster.state import State, Tensors, weights_of
from coformer_compiler.booster.training import Phase, Run, train
from coformer_compiler.booster.weights import equal_weights
from coformer_compiler.model.aggregator import Aggregator


def train_jointly(run: Run, state: State) -> None:
    """Train, refit, decide. Without joint steps nothing happens."""
    options = run.options
    if options.joint_steps:
        aggregator = _aggregator_of(state)
        if state.step == 0:
            state.before = weights_of(state.models())
            state.weights = equal_weights(len(run.lessons.split))
        phase = Phase(
            "joint",
            options.joint_steps,
            options.joint_learning_rate,
            "joint_learning_rate",
            [*state.members, aggregator],
            lambda batch: joint_losses(run, state, batch),
            lambda: _verdict(run, state),
        )
        train(phase, run, state)
        _decide(run, state)
        state.before = {}
    state.next_phase()
    run.save(state)


def joint_losses(run: Run, state: State, batch: Batch) -> torch.Tensor:
    """Aggregated loss of this step's subset, plus the mean of the members' own, per sample `(batch,)`.

    The members' own losses keep each of them usable alone: without them one ended at chance.
    """
    options, aggregator = run.options, _aggregator_of(state)
    subset = subset_of_step(aggregator.subsets, options.seed, state.phase, batch.step)
    features = [member.features(batch.pixels) for member in state.members]
    together = aggregator({n: features[n] for n in subset})
    loss = distillation_loss(together, batch.targets, options)
    if options.member_loss:
        alone = [
            distillation_loss(member.head(f), batch.targets, options)
            for member, f in zip(state.members, features, strict=True)
        ]
        loss = loss + options.member_loss * torch.stack(alone).mean(0)
    return batch.weights * loss


@dataclass(frozen=True)
class _Candidate:
    """One possible outcome: weights of members and aggregator, the choices of heads in them, and the verdict."""

    how: str
    weights: Tensors
    heads: tuple[HeadChoice, ...]
    verdict: Verdict


def _decide(run: Run, state: State) -> None:
    """Keep the best of: before the joint phase, after it, after it with everything refitted in closed form."""
    heads = state.history.heads
    trained = _candidate(run, state, "trained")
    state.aggregator = fit_aggregator(run, state)
    refitted = _candidate(run, state, "refitted")
    after = refitted if refitted.verdict.better_than(trained.verdict) else trained
    state.models().load_state_dict(state.before)
    before = _Candidate("earlier", state.before, heads, _verdict(run, state))
    kept = after.verdict.better_than(before.verdict)
    chosen = after if kept else before
    state.models().load_state_dict(chosen.weights)
    run.ranks.same_everywhere([*state.models().state_dict().values()])
    reason = _reason(before.verdict, after)
    joint = JointDecision(kept, reason, before.verdict, after.verdict)
    state.history = replace(state.history, heads=chosen.heads, joint=joint)
    run.progress.note(f"joint phase {'kept' if kept else 'not kept'}: {reason}")


def _candidate(run: Run, state: State, how: str) -> _Candidate:
    return _Candidate(how, weights_of(state.models()), state.history.heads, _verdict(run, state))


def _reason(before: Verdict, candidate: _Candidate) -> str:
    after = candidate.verdict
    what = f"with {candidate.how} aggregators, aggregated validation"
    if after.accuracy != before.accuracy:
        verb = "rose" if after.accuracy > before.accuracy else "fell"
        return f"{what} accuracy {verb} from {before.accuracy:.2%} to {after.accuracy:.2%}"
    if after.loss == before.loss:
        return f"{what} did not change"
    verb = "fell" if after.loss < before.loss else "rose"
    return f"{what} accuracy stayed at {after.accuracy:.2%} and loss {verb} from {before.loss:.4f} to {after.loss:.4f}"


def _verdict(run: Run, state: State) -> Verdict:
    return judge_full_set(state.members, _aggregator_of(state), run.validation, run.ranks.device)


def _aggregator_of(state: State) -> Aggregator:
    assert state.aggregator is not None, "the closed-form fit comes first"
    return state.aggregator
