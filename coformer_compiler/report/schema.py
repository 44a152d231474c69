"""What a build reports: frozen dataclasses whose JSON is report.json, field for field.

Units are in the names; accuracies and matches are shares (0.981), not per cent. What was not measured is None
(null) and `Report.absent` says why under the value's JSON path; nothing is ever filled in. Members count in the
order of `devices`; a subset of them is named like its aggregator's file, "0-2".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from coformer_compiler.report.reading import json_from_value

FORMAT = "coformer-report/1"

SpanPhase = Literal["input", "compute", "features", "aggregate"]


@dataclass(frozen=True)
class Device:
    """One device of the build, and what its target says of it.

    Attributes:
        name: the user's name for it.
        target: the target's name.
        engine: engine kind and version, "onnxruntime 1.23.2".
        memory_mb: memory that the build may count on.
        gflops: sustained FP32 throughput, 10^9 operations a second.
        central: whether it gathers the features and answers.
        precision: what its engine computes in.
        max_gflop: most work per inference, 10^9 operations (constraint C5); None where nothing was said.
        deadline_ms: when its features have to be at the central device; likewise.
    """

    name: str
    target: str
    engine: str
    memory_mb: float
    gflops: float
    central: bool = False
    precision: str = "float32"
    max_gflop: float | None = None
    deadline_ms: float | None = None


@dataclass(frozen=True)
class Lowered:
    """Accuracy of what was built, where an engine computes in less than float32; of the same samples.

    Attributes:
        members: each member alone.
        subsets: "0-2" → the members 0 and 2 together, for every subset that has an aggregator.
    """

    members: tuple[float, ...]
    subsets: Mapping[str, float]


@dataclass(frozen=True)
class Accuracy:
    """Top-1 accuracy on `Report.split`, as shares of `samples`.

    Attributes:
        teacher: the teacher.
        aggregated: all members together, calibrated.
        members: each member alone, calibrated.
        members_untrained: each member alone, as transplanted.
        aggregated_untrained: all members together, as transplanted.
        subsets: "0-2" → the calibrated members 0 and 2 together, for every subset that has an aggregator.
        subsets_untrained: the same before any training.
        samples: how many samples all of this was measured on.
        lowered: the calibrated system as its engines compute it; None where all of them compute in float32.
    """

    teacher: float | None
    aggregated: float | None
    members: tuple[float | None, ...]
    members_untrained: tuple[float | None, ...]
    aggregated_untrained: float | None
    subsets: Mapping[str, float]
    subsets_untrained: Mapping[str, float] = field(default_factory=dict)
    samples: int | None = None
    lowered: Lowered | None = None


@dataclass(frozen=True)
class ModelCost:
    """One forward pass of a batch of one: two operations per multiply-accumulate."""

    flops: int
    params: int


@dataclass(frozen=True)
class MemberCost:
    """What one member costs its device.

    Attributes:
        device: the device's name.
        target: its target's name.
        flops: as in ModelCost.
        params: as in ModelCost.
        engine_bytes: size of the engine's file; None where the board builds it.
        wire_bytes: features that a request brings back from it; the central device's own do not travel.
        input_bytes: input that a request sends to it.
        memory_bytes: memory that it was planned with (constraint C6).
    """

    device: str
    target: str
    flops: int
    params: int
    engine_bytes: int | None
    wire_bytes: int
    input_bytes: int | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True)
class Cost:
    """Costs of the teacher, of the members, and of the aggregator of all members."""

    teacher: ModelCost
    members: tuple[MemberCost, ...]
    aggregator: ModelCost | None = None


@dataclass(frozen=True)
class Timing:
    """Milliseconds over `runs` requests after the warm-up."""

    median: float
    p95: float
    runs: int


@dataclass(frozen=True)
class Latency:
    """Latency of the teacher's engine, of a whole aggregated request, and of each member's engine alone."""

    teacher: Timing | None
    aggregated: Timing | None
    members: tuple[Timing | None, ...]


@dataclass(frozen=True)
class ProfileTiming:
    """What each member's graph for one shape of input takes, all of a batch; None where its engine runs elsewhere."""

    shape: tuple[int, ...]
    members: tuple[Timing | None, ...]


@dataclass(frozen=True)
class MemberPrediction:
    """t1 and arrival of eq. (3) for one member, in ms; None for a device that was left out.

    Attributes:
        compute: its engine's run.
        arrival: when its features are with the central device.
        estimated: whether that rests on anything but measurements of such a device and such members.
        basis: what it rests on, as a phrase.
    """

    compute: float | None
    arrival: float | None
    estimated: bool
    basis: str


@dataclass(frozen=True)
class Prediction:
    """Latency of a request before anything was built, in ms; `estimated` where any member's is."""

    total: float
    aggregate: float
    estimated: bool
    members: tuple[MemberPrediction, ...]


@dataclass(frozen=True)
class Evaluation:
    """One policy that a search scored, before any training.

    Attributes:
        objective: loss + δ·T, minimised.
        loss: nats, on the validation split.
        latency: predicted, ms; estimated where `Search.estimated`.
        energy_mj: estimated, of all devices together.
        members: how many devices take part.
    """

    objective: float
    loss: float
    latency: float
    energy_mj: float
    members: int


@dataclass(frozen=True)
class OtherSearch:
    """Another search of the same model, data and devices: its strategy, and its objectives in order of evaluation.

    Objectives are as this search counts them, whatever the other one minimised.
    """

    strategy: str
    objectives: tuple[float, ...]


@dataclass(frozen=True)
class Search:
    """How the policy was found.

    Attributes:
        strategy: which search.
        pick: how the policy was chosen among those evaluated.
        evaluations: in order.
        front: numbers of those that no other one beats in loss, latency and energy at once; the fastest first.
        picked: number of the one that was built.
        fits: share of random policies that fit the devices as drawn.
        binding: constraint and device → share of random policies that break it.
        estimated: whether latencies rest on anything but measurements of such devices and such members; so it is
            taken to be where a report does not tell.
        others: searches to compare it with.
    """

    strategy: str
    pick: str
    evaluations: tuple[Evaluation, ...]
    front: tuple[int, ...]
    picked: int
    fits: float
    binding: Mapping[str, float]
    estimated: bool = True
    others: tuple[OtherSearch, ...] = ()


@dataclass(frozen=True)
class Alternative:
    """One of several policies of a build for a changing network.

    Attributes:
        name: of its bundles' folders.
        build: digest that its bundles share.
        members: names of the devices that take part.
        expected_accuracy: of all of them together, as a share.
        latency: predicted at each of `Alternatives.bandwidths`, ms.
    """

    name: str
    build: str
    members: tuple[str, ...]
    expected_accuracy: float
    latency: tuple[float, ...]


@dataclass(frozen=True)
class Range:
    """Rates in Mbit/s from `from_mbps` up to `to_mbps` (None: any), and the number of the alternative for them."""

    from_mbps: float
    to_mbps: float | None
    alternative: int


@dataclass(frozen=True)
class Alternatives:
    """What was built for a changing network.

    Attributes:
        bandwidths: what policies were picked for, Mbit/s, ascending.
        estimated: whether latencies rest on less than measurements.
        built: the unlike policies.
        ranges: from 0 upwards, without a gap.
        start: number of the alternative that the central node begins with.
        memory_bytes: device → what all of its members need together (constraint C6).
        this: number of the alternative that this report is of.
    """

    bandwidths: tuple[float, ...]
    estimated: bool
    built: tuple[Alternative, ...]
    ranges: tuple[Range, ...]
    start: int
    memory_bytes: Mapping[str, int]
    this: int = 0


@dataclass(frozen=True)
class LinearMatch:
    """How well one refitted linear of a member does the teacher's work.

    Attributes:
        member: index of the member.
        block: the block that it belongs to, "layers.3.attention"; blocks are numbered as the teacher's layers.
        kind: "reader" reads the stream (Q, K, V, first MLP linear), "writer" writes to it.
        match: R² on held-out samples, at most 1; None where there was nothing to match.
        penalty: the ridge penalty that was chosen, relative to the mean diagonal.
    """

    member: int
    block: str
    kind: Literal["reader", "writer"]
    match: float | None
    penalty: float


@dataclass(frozen=True)
class Phase:
    """One training phase.

    Attributes:
        name: "member", "aggregator", "joint" or another short word.
        member: whose phase it is; None where it is everybody's.
        steps: step numbers at which the figures were taken.
        loss: training loss at each of `steps`, None where there was none yet.
        validation: validation accuracy at each of `steps`, None where it was not taken there.
        kept: whether the phase's weights went into the build.
    """

    name: str
    member: int | None
    steps: tuple[int, ...]
    loss: tuple[float | None, ...]
    validation: tuple[float | None, ...]
    kept: bool = True


@dataclass(frozen=True)
class Span:
    """A piece of one request's time on one device, in ms since the request arrived at the central device.

    `phase`: "input" (input on its way to the device), "compute" (its member runs), "features" (features on
    their way back), "aggregate" (only on the central device).
    """

    device: str
    phase: SpanPhase
    start_ms: float
    end_ms: float


@dataclass(frozen=True)
class Stage:
    """A stage of the build: how long it took, and whether its artifact came from the cache."""

    name: str
    seconds: float
    cached: bool = False


@dataclass(frozen=True)
class Note:
    """Something that the reader has to know: "joint phase not kept: …"."""

    level: Literal["note", "warning"]
    text: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """All of it.

    Attributes:
        title: of the build, "Handwritten digits on three devices".
        teacher: the teacher's name, "timm:vit_tiny_patch16_224".
        data: the data set's name, "digits".
        split: which split the accuracies are from, "test".
        seed: the build's seed.
        basis: which basis of the residual stream was used, "per-norm" or "global"; None without a transplant.
        build: digest that all bundles share.
        digests: further digests, name → sha256 ("policy", "teacher").
        versions: package or tool → version.
        devices: in the order of the members.
        policy: the document policy.json, as `json.loads` gives it.
        accuracy, cost, latency_ms: the figures.
        predicted_ms: latency that the policy was predicted to have.
        match: one entry per refitted linear, in the order of the forward pass.
        history: the training phases, in order; empty without training.
        timeline: one request, device by device; empty where none was traced.
        stages: the build's stages, in order.
        notes: warnings and notes.
        absent: JSON path of a value that is null or empty, or of an object around it → why it is. What is said of
            "timeline" is shown beside a timeline too (how its spans were told apart).
        alternatives: the policies for other bandwidths; None where one policy was built.
        metric: what `accuracy` holds: that, or the score of a task that knows no right and wrong.
        profiles: the shapes that every member has a graph for; empty where there is one.
    """

    title: str
    teacher: str
    data: str
    split: str
    seed: int
    basis: str | None
    build: str
    digests: Mapping[str, str]
    versions: Mapping[str, str]
    devices: tuple[Device, ...]
    policy: Mapping[str, Any]
    accuracy: Accuracy
    cost: Cost
    latency_ms: Latency
    search: Search | None = None
    match: tuple[LinearMatch, ...] = ()
    history: tuple[Phase, ...] = ()
    timeline: tuple[Span, ...] = ()
    predicted_ms: Prediction | None = None
    stages: tuple[Stage, ...] = ()
    notes: tuple[Note, ...] = ()
    absent: Mapping[str, str] = field(default_factory=dict)
    alternatives: Alternatives | None = None
    metric: str = "accuracy"
    profiles: tuple[ProfileTiming, ...] = ()
    format: str = FORMAT

    def to_json(self) -> dict[str, Any]:
        """The object of report.json.

        Raises:
            ValueError: a number is not finite.
        """
        made: dict[str, Any] = json_from_value(self)
        return made


def members_of(subset: str) -> tuple[int, ...]:
    """The members of a subset's name: "0-2" → (0, 2)."""
    return tuple(int(part) for part in subset.split("-"))


def why_absent(report: Report, path: str) -> str | None:
    """Why the value at a JSON path ("latency_ms.members[2]") is missing: its reason, or its holder's."""
    while path:
        if path in report.absent:
            return report.absent[path]
        cut = max(path.rfind("."), path.rfind("["))
        path = path[:cut] if cut > 0 else ""
    return None
