"""How a policy is found, as data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PolicyOptions:
    """What decides a policy beside teacher and devices.

    Attributes:
        strategy: a name in `STRATEGIES` or `SEARCHES`, or "file".
        file: the policy file for strategy "file".
        overlap: members may keep the same heads, neurons and directions of the stream; drops the sums C2 to C4.
        method: "transplant" or "index" (index slices also deal out stream channels).
        shortcuts: whether costs count shortcut matrices (members with one basis per norm).
        embed: width of every member's stream, in place of a share, for the strategies in `STRATEGIES`.
        layers: which of the teacher's layers every member keeps, for the same; all where None.
    """

    strategy: str
    file: Path | None = None
    overlap: bool = False
    method: str = "transplant"
    shortcuts: bool = False
    embed: int | None = None
    layers: tuple[int, ...] | None = None
