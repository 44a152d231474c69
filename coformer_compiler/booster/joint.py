"""The joint phase: members and aggregator train together, with members dropped, and are kept only if that helps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from coformer_compiler.booster.batches import Batch
from coformer_compiler.booster.combine import fit_aggregator
from coformer_compiler.booster.history import JointDecision, Verdict
from coformer_compiler.booster.judge import features_of, judge_full_set, verdict_of
from coformer_compiler.booster.losses import distillation_loss, token_loss
from coformer_compiler.booster.schedule import subset_of_step
from coformer_compiler.booster.state import State, weights_of
from coformer_compiler.booster.training import Phase, Run, train
from coformer_compiler.booster.weights import equal_weights
from coformer_compiler.data.dataset import Split
from coformer_compiler.model.aggregator import Aggregator
from coformer_compiler.model.averaged import Averaged, averaged
from coformer_compiler.model.transformer import Transformer


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

    The members' own losses keep each of them usable alone: without them one ended at chance. Where the teacher's tokens
    are given, what the features are means of is compared as well: a dozen targets a text in place of one.
    """
    options, aggregator = run.options, _aggregator_of(state)
    subset = subset_of_step(aggregator.subsets, options.drop, options.seed, state.phase, batch.step)
    if batch.tokens is None:
        features = [member.features(batch.inputs) for member in state.members]
        loss = distillation_loss(aggregator({n: features[n] for n in subset}), batch.targets, options)
    else:
        seen = [averaged(member, batch.inputs) for member in state.members]
        features = [each.means() for each in seen]
        mixed = aggregator.mixer(subset)(torch.cat([seen[n].tokens for n in subset], -1))
        together = Averaged(mixed.float(), seen[0].lengths)
        loss = distillation_loss(aggregator.head(together.means()), batch.targets, options)
        loss = loss + options.token_loss * token_loss(together, batch.tokens)
    if options.member_loss:
        alone = [
            distillation_loss(member.head(f), batch.targets, options)
            for member, f in zip(state.members, features, strict=True)
        ]
        loss = loss + options.member_loss * torch.stack(alone).mean(0)
    return batch.weights * loss


def _decide(run: Run, state: State) -> None:
    """Keep the best of: before the joint phase, after it, after it with the aggregator refitted in closed form."""
    heads_before, trained = state.history.heads, _aggregator_of(state)
    refitted = fit_aggregator(run, state)
    take_better_mixers(state.members, trained, refitted, run.validation, run.ranks.device)
    verdicts = [
        judge_full_set(state.members, aggregator, run.validation, run.ranks.device)
        for aggregator in (trained, refitted)
    ]
    how, state.aggregator, after = "trained", trained, verdicts[0]
    if verdicts[1].better_than(verdicts[0]):
        how, state.aggregator, after = "refitted", refitted, verdicts[1]
    joint_weights = weights_of(state.models())
    state.models().load_state_dict(state.before)
    before = _verdict(run, state)
    kept = after.better_than(before)
    if kept:
        state.models().load_state_dict(joint_weights)
    run.ranks.same_everywhere([*state.models().state_dict().values()])
    reason = _reason(before, after, how)
    joint = JointDecision(kept, reason, before, after)
    state.history = replace(state.history, heads=state.history.heads if kept else heads_before, joint=joint)
    run.progress.note(f"joint phase {'kept' if kept else 'not kept'}: {reason}")


@torch.no_grad()
def take_better_mixers(
    members: Sequence[Transformer], into: Aggregator, other: Aggregator, split: Split, device: torch.device
) -> None:
    """Replace mixers of `into` by those of `other` where they have less loss under the head of `into`.

    A subset that was drawn seldom has a mixer for members as they were some steps ago.
    """
    features = [features_of(member, split, device) for member in members]
    for subset in into.subsets:
        side_by_side = torch.cat([features[n] for n in subset], -1)
        mine, theirs = (
            verdict_of(into.head(mixer(side_by_side)), split) for mixer in (into.mixer(subset), other.mixer(subset))
        )
        if theirs.loss < mine.loss:
            into.mixer(subset).load_state_dict(other.mixer(subset).state_dict())


def _reason(before: Verdict, after: Verdict, how: str) -> str:
    what = f"with {how} aggregators, aggregated validation"
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
