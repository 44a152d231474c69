"""What a worker counts."""

from typing import List, Sequence

from . import wire
from .manifest import Manifest
from .metrics import Counter, Family, Histogram, gauge, labels
from .observe import process_families

OUTCOMES = {
    wire.BAD_REQUEST: "bad_request",
    wire.OTHER_BUILD: "other_build",
    wire.LATE: "late",
    wire.ENGINE_FAILED: "engine_failed",
    wire.CANCELLED: "cancelled",
}


class WorkerCounts:
    """Requests by what came of them, and the engine's time.

    Args:
        manifests: of the bundles that are served.
    """

    def __init__(self, manifests: Sequence[Manifest]) -> None:
        self._about = [labels({"build": each.build, "device": each.device}) for each in manifests]
        self._answered = labels({"outcome": "features"})
        self._failed = {status: labels({"outcome": name}) for status, name in OUTCOMES.items()}
        self.requests = Counter("coformer_worker_requests_total", "Requests of central nodes, by what came of them")
        self.engine = Histogram("coformer_engine_seconds", "The engine's runs")

    def answered(self, compute_s: float) -> None:
        """Count a request that was answered with features."""
        self.requests.add(self._answered)
        self.engine.observe((), compute_s)

    def failed(self, status: int) -> None:
        """Count a request that was answered with a failure of this status."""
        self.requests.add(self._failed[status])

    def families(self) -> List[Family]:
        """Return all metrics of a worker."""
        about = gauge("coformer_build_info", "What is served", dict.fromkeys(self._about, 1))
        return [self.requests.family(), self.engine.family(), about, *process_families()]
