"""Parts of the joint phase."""

from __future__ import annotations

import torch

from coformer_compiler.booster.joint import take_better_mixers
from coformer_compiler.model.aggregator import Aggregator
from tests.compiler.booster.small import small_members, small_split, small_teacher


def test_a_mixer_is_replaced_only_where_the_other_has_less_loss() -> None:
    members, head = small_members(), small_teacher().head
    widths = [member.spec.features for member in members]
    torch.manual_seed(0)
    into, other = Aggregator(widths, head), Aggregator(widths, head)
    split = small_split(48, 2)
    with torch.no_grad():
        # Answers as wrong as can be, and answers that take no side: only (0, 2) has the better mixer in `other`.
        for aggregator, spoiled in ((into, [(0, 2)]), (other, [s for s in other.subsets if s != (0, 2)])):
            for subset in aggregator.subsets:
                mixer = aggregator.mixer(subset)
                mixer.weight.mul_(100 if subset in spoiled else 0)
    wanted = {name: tensor.clone() for name, tensor in into.state_dict().items()}
    wanted |= {name: tensor for name, tensor in other.state_dict().items() if name.startswith("mixers.0-2.")}
    take_better_mixers(members, into, other, split, torch.device("cpu"))
    for name, tensor in into.state_dict().items():
        assert torch.equal(tensor, wanted[name]), name
