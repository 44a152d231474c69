"""What validation says of members and aggregators."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from coformer_compiler.booster.batches import in_order
from coformer_compiler.booster.history import Verdict
from coformer_compiler.data.dataset import Split
from coformer_compiler.model.aggregator import Aggregator, subset_name
from coformer_compiler.model.transformer import Transformer


@torch.no_grad()
def features_of(member: Transformer, split: Split, device: torch.device) -> torch.Tensor:
    """Features of all samples of a split `(samples, d_n)`."""
    return torch.cat([member.features(inputs) for _, inputs in in_order(split, device)])


@torch.no_grad()
def verdict_of(logits: torch.Tensor, split: Split) -> Verdict:
    """Verdict on the logits `(samples, classes)` of a split."""
    labels = torch.from_numpy(split.labels.copy()).to(logits.device)
    task = split.task
    return Verdict(task.scored(logits, labels), float(task.loss(logits.double(), labels).mean()))


@torch.no_grad()
def judge_member(member: Transformer, split: Split, device: torch.device) -> Verdict:
    """Verdict on a member with its own head."""
    return verdict_of(member.head(features_of(member, split, device)), split)


@torch.no_grad()
def judge_all(
    members: Sequence[Transformer], aggregator: Aggregator, split: Split, device: torch.device
) -> tuple[tuple[Verdict, ...], dict[str, Verdict]]:
    """Verdicts on every member alone, and on every subset; each sample passes each member once."""
    features = [features_of(member, split, device) for member in members]
    alone = tuple(verdict_of(member.head(f), split) for member, f in zip(members, features, strict=True))
    together = {
        subset_name(subset): verdict_of(aggregator({n: features[n] for n in subset}), split)
        for subset in aggregator.subsets
    }
    return alone, together


@torch.no_grad()
def judge_full_set(
    members: Sequence[Transformer], aggregator: Aggregator, split: Split, device: torch.device
) -> Verdict:
    """Verdict on all members together."""
    features = {n: features_of(member, split, device) for n, member in enumerate(members)}
    return verdict_of(aggregator(features), split)
