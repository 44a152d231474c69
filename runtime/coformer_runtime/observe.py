"""What a central node counts of its requests, and how it says how it is."""

import os
import time
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, NamedTuple, Sequence, Union

from .answer import Answer
from .metrics import Counter, Family, Histogram, Labels, gauge, labels
from .power import readings

if TYPE_CHECKING:
    from .central import Central
    from .switching import Switching

    Answering = Union[Central, Switching]

MODEL = "coformer"
BATCHES = (1, 2, 4, 8, 16, 32, 64)
BREAKER_LEVELS = {"closed": 0, "half-open": 1, "open": 2}


GATHER, AGGREGATE, TOTAL = ((("phase", name),) for name in ("gather", "aggregate", "total"))


class _Keys(NamedTuple):
    """The labels of one device, made once: they are needed with every answer."""

    alone: Labels
    received: Labels
    sent: Labels
    compute: Labels
    transfer: Labels


def _keys(device: str) -> _Keys:
    both = [{"direction": each} for each in ("in", "out")] + [{"phase": each} for each in ("compute", "transfer")]
    return _Keys(labels({"device": device}), *(labels(dict(each, device=device)) for each in both))


class Observed:
    """Counts of a central node; those that Triton has too bear Triton's names.

    Args:
        version: the model's, as clients see it; what is answered by another build is counted under that one's.
        devices: the members.
    """

    def __init__(self, version: str, devices: Sequence[str]) -> None:
        self._model = labels({"model": MODEL, "version": version})
        self._models = {version: self._model}
        self._devices = {device: _keys(device) for device in devices}
        self._started = time.monotonic()
        self.waiting: Callable[[], int] = lambda: 0  # requests that are to be joined with others
        self.success = Counter("nv_inference_request_success", "Requests that were answered")
        self.failure = Counter("nv_inference_request_failure", "Requests that were not, by gRPC status")
        self.duration = Counter("nv_inference_request_duration_us", "Time of all requests, in microseconds")
        self.compute = Counter("nv_inference_compute_infer_duration_us", "The slowest engine's time, in microseconds")
        self.inferences = Counter("nv_inference_count", "Samples that were answered")
        self.rounds = Counter("nv_inference_exec_count", "Rounds, in each of which a batch of them was")
        self.queued = Counter("nv_inference_queue_duration_us", "Time that requests waited to be joined")
        self.batches = Histogram("coformer_batch_samples", "Samples of a round", BATCHES)
        self.degraded = Counter("coformer_degraded_total", "Answers by fewer than all members")
        self.missing = Counter("coformer_member_missing_total", "Answers and failures that a member was missing from")
        self.bytes = Counter("coformer_member_bytes_total", "Payload to and from each member")
        self.phases = Histogram("coformer_phase_seconds", "Phases of answered requests")
        self.members = Histogram("coformer_member_seconds", "Engine time, and network and waiting, by member")

    def answered(
        self, answer: Answer, input_bytes: int, feature_bytes: Mapping[str, int], requests: int = 1, samples: int = 1
    ) -> None:
        """Count the answer of a round to so many requests; `feature_bytes` are by device, of those that replied."""
        phases, model = answer.phases, self._model_of(answer.build[:12])
        self.success.add(model, requests)
        self.inferences.add(model, samples)
        self.rounds.add(model)
        self.batches.observe((), samples)
        self.duration.add(model, phases.total_ms * 1e3 * requests)
        self.compute.add(model, max(phases.compute_ms.values(), default=0.0) * 1e3 * requests)
        if answer.degraded:
            self.degraded.add((), requests)
        self.unanswered(answer.missing, requests)
        for device, count in feature_bytes.items():
            keys = self._devices[device]
            self.bytes.add(keys.received, count)
            self.bytes.add(keys.sent, input_bytes)
            self.members.observe(keys.compute, phases.compute_ms[device] / 1e3)
            self.members.observe(keys.transfer, phases.transfer_ms[device] / 1e3)
        self.phases.observe(GATHER, phases.gather_ms / 1e3)
        self.phases.observe(AGGREGATE, phases.aggregate_ms / 1e3)
        self.phases.observe(TOTAL, phases.total_ms / 1e3)

    def _model_of(self, version: str) -> Labels:
        if version not in self._models:
            self._models[version] = labels({"model": MODEL, "version": version})
        return self._models[version]

    def unanswered(self, missing: Mapping[str, str], requests: int = 1) -> None:
        """Count who was missing from so many requests that failed."""
        for device in missing:
            self.missing.add(self._devices[device].alone, requests)

    def waited(self, seconds: float) -> None:
        """Count what an answered request waited to be joined with others."""
        self.queued.add(self._model, seconds * 1e6)
        self.duration.add(self._model, seconds * 1e6)

    def refused(self, status: str) -> None:
        """Count a request that ended with this gRPC status."""
        self.failure.add(tuple(sorted((*self._model, ("reason", status)))))

    def families(self, central: "Answering") -> List[Family]:
        """Return all metrics of a central node."""
        away = central.missing()
        names = central.manifest.members
        states = central.breaker_states()
        counted: List[Union[Counter, Histogram]] = [
            self.success, self.failure, self.inferences, self.rounds, self.duration, self.queued, self.compute,
            self.degraded, self.missing, self.bytes, self.phases, self.members, self.batches,
        ]  # fmt: skip
        about = {"build": central.manifest.build, "device": central.manifest.device}
        return [each.family() for each in counted] + [
            gauge("nv_inference_pending_request_count", "Requests in progress",
                  {self._model: central.in_progress + self.waiting()}),
            gauge("coformer_build_info", "What is served", {labels(about): 1}),
            gauge("coformer_ready", "Whether a request would be answered now", {(): int(central.ready())}),
            gauge("coformer_member_up", "Whether a member would be asked now",
                  {labels({"device": name}): int(name not in away) for name in names}),
            gauge("coformer_breaker_state", "0 closed, 1 half-open, 2 open",
                  {labels({"device": name}): BREAKER_LEVELS[state] for name, state in states.items()}),
            gauge("coformer_breaker_opened", "How often a breaker has opened",
                  {labels({"device": name}): count for name, count in central.breaker_openings().items()}),
            gauge("coformer_retries", "Requests that were sent a second time",
                  {labels({"worker": worker}): count for worker, count in central.retries().items()}),
        ] + process_families()  # fmt: skip

    def status(self, central: "Answering") -> Dict[str, Any]:
        """Return what the live page and `coformer-node status` show, as JSON values."""
        away, states = central.missing(), central.breaker_states()
        present = central.present()
        return {
            "device": central.manifest.device,
            "build": central.manifest.build,
            "ready": present is not None,
            "uptime_s": round(time.monotonic() - self._started, 1),
            "requests": {
                "answered": int(self.success.total()),
                "degraded": int(self.degraded.total()),
                "failed": int(self.failure.total()),
                "in_progress": central.in_progress + self.waiting(),
            },
            "expected_accuracy": None if present is None else present.expected_accuracy,
            "expected_of": [] if present is None else [central.manifest.members[index] for index in present.members],
            "mean_ms": {key[0][1]: self.phases.mean_ms(key) for key in (TOTAL, GATHER, AGGREGATE)},
            "members": [
                {
                    "device": name,
                    "up": name not in away,
                    "reason": away.get(name, ""),
                    "breaker": states[name],
                    "compute_ms": self.members.mean_ms(self._devices[name].compute),
                    "transfer_ms": self.members.mean_ms(self._devices[name].transfer),
                    "sent_bytes": int(self.bytes.value(self._devices[name].sent)),
                    "received_bytes": int(self.bytes.value(self._devices[name].received)),
                }
                for name in central.manifest.members
            ],
            "power": readings(),
        }


def process_families() -> List[Family]:
    """Return the metrics of this process and of the board's power, where Linux tells them."""
    families = []
    try:
        with open("/proc/self/statm") as stream:
            pages = int(stream.read().split()[1])
        families = [
            gauge("process_resident_memory_bytes", "Resident memory", {(): pages * os.sysconf("SC_PAGE_SIZE")}),
            gauge("process_open_fds", "Open file descriptors", {(): len(os.listdir("/proc/self/fd"))}),
        ]
    except OSError:
        pass
    told = readings()
    for name, text in (("watts", "Power of a rail (INA3221)"), ("joules", "Energy counter of a domain (RAPL)")):
        found = {labels({"rail": rail}): value for rail, value in told.get(name, {}).items()}
        if found:
            families.append(gauge("coformer_power_" + name, text, found))
    return families
