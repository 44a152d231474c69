"""What the devices keep of the teacher, read from a policy document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class KeptLayer:
    """One layer of the teacher.

    Attributes:
        heads: for each head the members that keep it.
        neurons: for each neuron the members that keep it.
        keepers: the members that have this layer at all.
    """

    heads: tuple[tuple[int, ...], ...]
    neurons: tuple[tuple[int, ...], ...]
    keepers: tuple[int, ...]


@dataclass(frozen=True)
class Kept:
    """The whole teacher: its embed width, each member's, and its layers."""

    embed: int
    embeds: tuple[int, ...]
    layers: tuple[KeptLayer, ...]
    strategy: str


def kept_from_policy(policy: Mapping[str, Any]) -> Kept:
    """What is kept by whom, for every head and neuron of every layer.

    Raises:
        KeyError, TypeError, IndexError: the document is not a policy.
    """
    teacher, members = policy["teacher"], policy["members"]
    shares = [{row["layer"]: row for row in member["layers"]} for member in members]
    layers = tuple(
        KeptLayer(
            _keepers(_per_layer(teacher["heads"], layer), [rows.get(layer, {}).get("heads", ()) for rows in shares]),
            _keepers(
                _per_layer(teacher["neurons"], layer), [rows.get(layer, {}).get("neurons", ()) for rows in shares]
            ),
            tuple(n for n, rows in enumerate(shares) if layer in rows),
        )
        for layer in range(teacher["layers"])
    )
    embeds = tuple(int(member["embed"]) for member in members)
    return Kept(int(teacher["embed"]), embeds, layers, str(policy.get("strategy", "")))


def tally(keepers: Sequence[tuple[int, ...]], members: int) -> list[int]:
    """How many units each member keeps alone, then how many are kept by several, then by nobody."""
    counts = [0] * (members + 2)
    for who in keepers:
        counts[category(who, members)] += 1
    return counts


def category(who: tuple[int, ...], members: int) -> int:
    """The member that keeps a unit alone; `members` where several do, `members + 1` where nobody does."""
    if len(who) == 1:
        return who[0]
    return members if who else members + 1


def _per_layer(counts: int | Sequence[int], layer: int) -> int:
    """Heads and neurons are one number for all layers, or one per layer."""
    return counts if isinstance(counts, int) else counts[layer]


def _keepers(count: int, kept: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    found: list[list[int]] = [[] for _ in range(count)]
    for member, indices in enumerate(kept):
        for index in indices:
            found[index].append(member)
    return tuple(map(tuple, found))
