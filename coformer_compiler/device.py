"""A device of the user's cluster: a target with this board's own figures."""

from __future__ import annotations

from dataclasses import dataclass

from coformer_compiler.profiling.predictor import Predictor
from coformer_targets.target import Target


@dataclass(frozen=True)
class Device:
    """One device.

    Attributes:
        name: the user's name for it.
        target: what kind of device it is.
        gflops: sustained FP32 throughput, 10⁹ operations a second.
        memory_mb: memory that the member may use, engine library included; Φ_n of C6.
        max_gflop: most work per inference, 10⁹ operations; Ω_n of C5, or None for no limit.
        central: whether it aggregates.
        standby: whether it gets the aggregators too, to stand in for the central one.
        predictor: of its members' latency, measured on such a device; none was given.
        deadline_ms: when its features have to be there, by the estimate; None for no deadline.
    """

    name: str
    target: Target
    gflops: float
    memory_mb: float
    max_gflop: float | None = None
    central: bool = False
    predictor: Predictor | None = None
    deadline_ms: float | None = None
    standby: bool = False

    @property
    def aggregates(self) -> bool:
        """Whether it gets the aggregators."""
        return self.central or self.standby
