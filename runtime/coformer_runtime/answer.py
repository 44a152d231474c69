"""What a cluster answers, and how it travels as Open Inference Protocol response parameters."""

from typing import Dict, Mapping, NamedTuple, Optional, Tuple, Union

from .arrays import Array

Parameter = Union[bool, int, float, str]


class Phases(NamedTuple):
    """Where the time of one request went, in milliseconds, as the central node measured it.

    Attributes:
        total_ms: from the request's arrival until the answer was ready.
        gather_ms: from the dispatch until the last member's features were there or given up.
        aggregate_ms: the aggregator's run.
        compute_ms: device → its engine's run.
        transfer_ms: device → dispatch until its features arrived, less compute: network and waiting.
    """

    total_ms: float
    gather_ms: float
    aggregate_ms: float
    compute_ms: Mapping[str, float]
    transfer_ms: Mapping[str, float]


class Shaped(NamedTuple):
    """The profile that an answer was computed in, of bundles that have several.

    Attributes:
        batch: samples at a time.
        length: tokens of a text, 0 where lengths are fixed.
        cut_tokens: tokens that were cut off the longest text.
        queue_ms: how long the request waited to be joined with others.
    """

    batch: int
    length: int = 0
    cut_tokens: int = 0
    queue_ms: float = 0.0


class Answer(NamedTuple):
    """One answer of the cluster.

    Attributes:
        logits: the aggregator's output, `(samples, classes)` unless the manifest says otherwise.
        members: the devices that took part.
        degraded: whether some did not.
        missing: device → why it did not.
        expected_accuracy: accuracy that the build measured for this subset, 0 to 1.
        build: digest of the build that answered.
        phases: where the time went.
        shaped: the profile, None where there is the one shape alone.
    """

    logits: Array
    members: Tuple[str, ...]
    degraded: bool
    missing: Mapping[str, str]
    expected_accuracy: float
    build: str
    phases: Phases
    shaped: Optional[Shaped] = None


class Token(NamedTuple):
    """One token of a generated text.

    Attributes:
        number: which word.
        last: whether no other follows: it ends the text, or as many as were asked for are there.
        members: the devices that took part.
        degraded: whether some did not.
        total_ms: from the round's start until the token was chosen.
    """

    number: int
    last: bool
    members: Tuple[str, ...]
    degraded: bool
    total_ms: float


def parameters_from_answer(answer: Answer) -> Dict[str, Parameter]:
    """Return the response parameters; those of one device are called "compute_ms.DEVICE" and so on."""
    phases = answer.phases
    parameters: Dict[str, Parameter] = {
        "members": ",".join(answer.members),
        "degraded": answer.degraded,
        "expected_accuracy": float(answer.expected_accuracy),
        "build": answer.build,
        "total_ms": phases.total_ms,
        "gather_ms": phases.gather_ms,
        "aggregate_ms": phases.aggregate_ms,
    }
    if answer.shaped is not None:
        parameters["profile_batch"] = answer.shaped.batch
        if answer.shaped.queue_ms:
            parameters["queue_ms"] = answer.shaped.queue_ms
    if answer.shaped is not None and answer.shaped.length:
        parameters["profile_length"] = answer.shaped.length
        parameters["cut_tokens"] = answer.shaped.cut_tokens
    for prefix, values in _per_device(answer).items():
        for device, value in values.items():
            parameters["{}.{}".format(prefix, device)] = value
    return parameters


def answer_from_parameters(logits: Array, parameters: Mapping[str, Parameter]) -> Answer:
    """Return the answer that a response tells of; the inverse of `parameters_from_answer`.

    Raises:
        KeyError: a parameter is missing: the server is not a central node of this version.
    """
    told: Dict[str, Dict[str, Parameter]] = {"compute_ms": {}, "transfer_ms": {}, "missing": {}}
    for key, value in parameters.items():
        prefix, _, device = key.partition(".")
        if device and prefix in told:
            told[prefix][device] = value
    phases = Phases(
        float(parameters["total_ms"]),
        float(parameters["gather_ms"]),
        float(parameters["aggregate_ms"]),
        {device: float(value) for device, value in told["compute_ms"].items()},
        {device: float(value) for device, value in told["transfer_ms"].items()},
    )
    shaped = None
    if "profile_batch" in parameters:
        numbers = [int(parameters.get(key, 0)) for key in ("profile_batch", "profile_length", "cut_tokens")]
        shaped = Shaped(*numbers)._replace(queue_ms=float(parameters.get("queue_ms", 0.0)))
    return Answer(
        logits,
        tuple(str(parameters["members"]).split(",")),
        bool(parameters["degraded"]),
        {device: str(reason) for device, reason in told["missing"].items()},
        float(parameters["expected_accuracy"]),
        str(parameters["build"]),
        phases,
        shaped,
    )


def _per_device(answer: Answer) -> Dict[str, Mapping[str, Parameter]]:
    return {
        "compute_ms": answer.phases.compute_ms,
        "transfer_ms": answer.phases.transfer_ms,
        "missing": answer.missing,
    }
