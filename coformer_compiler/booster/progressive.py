"""Algorithm 1, lines 12 to 15: the members in order, each weighted by what the one before it got wrong."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch

from coformer_compiler.booster.batches import Batch, in_order
from coformer_compiler.booster.history import Verdict
from coformer_compiler.booster.judge import judge_member
from coformer_compiler.booster.losses import Targets, distillation_loss, hard_loss
from coformer_compiler.booster.state import State
from coformer_compiler.booster.training import Phase, Run, train
from coformer_compiler.booster.weights import next_weights
from coformer_compiler.model.transformer import Transformer


def calibrate_member(run: Run, state: State) -> None:
    """Train the member whose phase it is by eq. (14), then update the weights by eq. (13).

    A transplanted member starts so well that a learning rate for fresh weights can only harm it: training that does not
    validate better than the start is dropped.
    """
    n = state.phase
    member = state.members[n]

    def losses(batch: Batch) -> torch.Tensor:
        return batch.weights * distillation_loss(member(batch.inputs), batch.targets, run.options)

    def judge() -> Verdict:
        return judge_member(member, run.validation, run.ranks.device)

    options = run.options
    phase = Phase(f"member {n}", options.steps, options.learning_rate, "learning_rate", [member], losses, judge)
    train(phase, run, state)
    if options.steps:
        start = copy.deepcopy(run.starts[n]).to(run.ranks.device).eval()
        if not judge().better_than(judge_member(start, run.validation, run.ranks.device)):
            member.load_state_dict(start.state_dict())
            state.history = replace(state.history, reverted=(*state.history.reverted, n))
            run.progress.note(f"member {n} stays as it came: training did not validate better")
    if options.weighting != "none" and n + 1 < len(state.members):
        found = training_losses(run, member)
        state.weights = next_weights(state.weights, found, member.spec.classes, options.weighting)
    state.next_phase()
    run.save(state)


@torch.no_grad()
def training_losses(run: Run, member: Transformer) -> torch.Tensor:
    """Eq. (14) without weights on every training sample, float64 `(samples,)`."""
    lessons, device = run.lessons, run.ranks.device
    found = []
    for rows, inputs in in_order(lessons.split, device):
        labels = torch.from_numpy(lessons.split.labels[rows].copy()).to(device)
        teacher = torch.from_numpy(lessons.logits[0, rows].copy()).to(device)
        found.append(hard_loss(member(inputs), Targets(labels, teacher, lessons.split.task)).double().cpu())
    return torch.cat(found)
