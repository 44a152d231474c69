"""The aggregator of every subset in closed form, and the better head for every member."""

from __future__ import annotations

import torch

from coformer_compiler.booster.batches import lessons_in_order
from coformer_compiler.booster.history import HeadChoice
from coformer_compiler.booster.judge import features_of, verdict_of
from coformer_compiler.booster.state import State
from coformer_compiler.booster.still import forget_still_directions
from coformer_compiler.booster.training import Run
from coformer_compiler.model.aggregator import Aggregator
from coformer_compiler.transplant.readout import fit_readouts


def combine_members(run: Run, state: State) -> None:
    """The phase between the progressive and the joint one."""
    state.aggregator = fit_aggregator(run, state)
    state.next_phase()
    run.save(state)


@torch.no_grad()
def fit_aggregator(run: Run, state: State) -> Aggregator:
    """Fit mixers on the training split; a member's head is replaced where the fitted one has less validation loss."""
    device = run.ranks.device
    trained = [member.head for member in state.members]
    aggregator = fit_readouts(state.members, run.teacher.head, lessons_in_order(run.lessons, run.options, device))
    for subset in aggregator.subsets:
        forget_still_directions(aggregator.mixer(subset), [state.members[n] for n in subset])
    choices = []
    for n, member in enumerate(state.members):
        forget_still_directions(member.head.reader, [member])
        fitted, features = member.head, features_of(member, run.validation, device)
        old, new = (verdict_of(head(features), run.validation) for head in (trained[n], fitted))
        refitted = run.options.refit_heads and new.loss < old.loss
        member.head = fitted if refitted else trained[n]
        choices.append(HeadChoice(n, refitted, old, new))
    state.history = state.history.with_heads(choices)
    run.ranks.same_everywhere([*state.models().state_dict().values(), *aggregator.state_dict().values()])
    return aggregator
