"""Which heads and neurons fill the shapes: the ranking is dealt out, so that no two members hold the same.

Measured: members that all take the best units agree with each other, and the aggregator has nothing to gain from them
(docs/method.md). Dealing keeps the members unlike each other and fulfils C3 and C4 as they stand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from coformer_compiler.decomposer.policy import LayerShare, MemberPolicy
from coformer_compiler.decomposer.shapes import MemberShape, stage_widths


def deal(scores: torch.Tensor, counts: Sequence[int]) -> list[tuple[int, ...]]:
    """Hand out `counts[n]` units to each member n, the best first.

    In each turn the member that is furthest behind its share picks the best unit left (the smaller index among equals).
    Where more are asked for than there are, the deck is dealt again once all of it is out: a member then picks the best
    that it has not, of those that fewest hold.

    Args:
        scores: importance of each unit, `(units,)`.
        counts: how many each member gets, at most as many as there are.
    """
    ranking = np.argsort(-scores.detach().cpu().double().numpy(), kind="stable")
    whose = np.repeat(np.arange(len(counts)), counts)
    # Turn number k of a member comes when it is (k + ½) / count of its way; the first member among equals is served.
    behind = np.concatenate([(np.arange(count) + 0.5) / count for count in counts] or [np.zeros(0)])
    turns = whose[np.lexsort((whose, behind))]
    held = np.zeros((len(counts), len(ranking)), bool)  # by place in the ranking
    first = np.arange(min(len(turns), len(ranking)))
    held[turns[: len(first)], first] = True
    for n in turns[len(first) :]:
        holders = np.where(held[n], len(counts), held.sum(0))
        held[n, holders.argmin()] = True
    return [_sorted(ranking[own]) for own in held]


def _sorted(units: npt.NDArray[np.int64]) -> tuple[int, ...]:
    return tuple(np.sort(units).tolist())


def members_from_shapes(
    devices: Sequence[str],
    shapes: Sequence[MemberShape],
    scores: Mapping[tuple[str, int], torch.Tensor],
    channel_scores: Sequence[torch.Tensor] | None,
) -> tuple[MemberPolicy, ...]:
    """Fill every member's shape with units, layer by layer.

    Args:
        devices: names, in the order of `shapes`.
        shapes: what each member has room for.
        scores: importance of the units of each (kind, layer), kind "attention", "cross" or "mlp".
        channel_scores: by stage; given for index slicing, where stream channels are dealt out as well.
    """
    taken: list[dict[tuple[str, int], tuple[int, ...]]] = [{} for _ in shapes]
    for kind, layer in scores:
        counts = [(s.neurons if kind == "mlp" else s.heads).get(layer, 0) for s in shapes]
        keeping = [n for n, count in enumerate(counts) if count]
        hands = deal(scores[kind, layer], [counts[n] for n in keeping])
        for n, hand in zip(keeping, hands, strict=True):
            taken[n][kind, layer] = hand
    channels: Sequence[tuple[tuple[int, ...], ...] | None] = [None] * len(shapes)
    if channel_scores is not None:
        widths = [stage_widths([len(stage) for stage in channel_scores], shape.embed) for shape in shapes]
        dealt = [deal(stage, [own[number] for own in widths]) for number, stage in enumerate(channel_scores)]
        channels = list(zip(*dealt, strict=True))
    return tuple(
        MemberPolicy(
            device,
            shape.embed,
            tuple(
                LayerShare(
                    layer, taken[n]["attention", layer], taken[n]["mlp", layer], taken[n].get(("cross", layer), ())
                )
                for layer in sorted(shape.heads)
            ),
            channels[n],
        )
        for n, (device, shape) in enumerate(zip(devices, shapes, strict=True))
    )
