"""What happened in a run, as data for the report. It holds no times: equal runs have equal histories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Verdict:
    """What the validation split says: share of right answers, and mean cross-entropy with the labels in nats.

    Of other tasks than classification: their score, and their mean loss.
    """

    accuracy: float
    loss: float

    def better_than(self, other: Verdict) -> bool:
        """Accuracy first, then loss."""
        return (self.accuracy, -self.loss) > (other.accuracy, -other.loss)


@dataclass(frozen=True)
class Point:
    """One point of a training curve.

    Attributes:
        step: optimizer steps done.
        loss: mean training loss since the point before; None at the start.
        validation_accuracy: measured at a few of the points, else None.
    """

    step: int
    loss: float | None
    validation_accuracy: float | None


@dataclass(frozen=True)
class HeadChoice:
    """Which head a member keeps: the trained one or the closed-form one, and both verdicts."""

    member: int
    refitted: bool
    trained_head: Verdict
    refitted_head: Verdict


@dataclass(frozen=True)
class JointDecision:
    """Whether the joint phase was kept, and why."""

    kept: bool
    reason: str
    before: Verdict
    after: Verdict


@dataclass(frozen=True)
class History:
    """All of a run.

    Attributes:
        curves: training curve by phase: "member 0", …, "joint".
        heads: the heads' choices, in the order in which they were made.
        joint: the decision; None where there was no joint phase.
        reverted: members that validated better before they were trained, and so stayed as they came.
        members: verdicts of the finished members alone.
        subsets: verdicts of the finished aggregators by subset, "0-2".
    """

    curves: Mapping[str, tuple[Point, ...]] = field(default_factory=dict)
    heads: tuple[HeadChoice, ...] = ()
    joint: JointDecision | None = None
    reverted: tuple[int, ...] = ()
    members: tuple[Verdict, ...] = ()
    subsets: Mapping[str, Verdict] = field(default_factory=dict)

    def with_point(self, curve: str, point: Point) -> History:
        """This history, one point longer."""
        return replace(self, curves={**self.curves, curve: (*self.curves.get(curve, ()), point)})

    def with_heads(self, choices: Sequence[HeadChoice]) -> History:
        """This history, with choices of heads added."""
        return replace(self, heads=(*self.heads, *choices))

    def to_json(self) -> dict[str, Any]:
        """A plain dict for `json.dumps`."""
        return asdict(self)


def history_from_json(data: Mapping[str, Any]) -> History:
    """The inverse of `History.to_json`; raises KeyError or TypeError on anything else."""
    return History(
        curves={name: tuple(Point(**point) for point in points) for name, points in data["curves"].items()},
        heads=tuple(
            HeadChoice(
                choice["member"],
                choice["refitted"],
                Verdict(**choice["trained_head"]),
                Verdict(**choice["refitted_head"]),
            )
            for choice in data["heads"]
        ),
        joint=None if data["joint"] is None else _joint(data["joint"]),
        reverted=tuple(data["reverted"]),
        members=tuple(Verdict(**verdict) for verdict in data["members"]),
        subsets={name: Verdict(**verdict) for name, verdict in data["subsets"].items()},
    )


def _joint(data: Mapping[str, Any]) -> JointDecision:
    return JointDecision(data["kept"], data["reason"], Verdict(**data["before"]), Verdict(**data["after"]))
