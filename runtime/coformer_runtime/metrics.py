"""Counters and histograms in Prometheus' text format, without its library."""

import bisect
import threading
from typing import Dict, List, Mapping, NamedTuple, Sequence, Tuple

Labels = Tuple[Tuple[str, str], ...]
BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Sample(NamedTuple):
    """One line: the metric's name, its labels and its value."""

    name: str
    labels: Labels
    value: float


class Family(NamedTuple):
    """All lines of one metric: "counter", "gauge" or "histogram", with the help that scrapers show."""

    name: str
    kind: str
    help: str
    samples: Tuple[Sample, ...]


def labels(given: Mapping[str, str]) -> Labels:
    """Return labels in a fixed order."""
    return tuple(sorted(given.items()))


class Counter:
    """Sums by labels; `kind` "counter" only grows."""

    def __init__(self, name: str, text: str) -> None:
        self._name, self._text = name, text
        self._lock = threading.Lock()
        self._values: Dict[Labels, float] = {}

    def add(self, key: Labels, amount: float = 1) -> None:
        """Add to the sum with these labels."""
        with self._lock:
            self._values[key] = self._values.get(key, 0) + amount

    def value(self, key: Labels) -> float:
        """Return the sum with these labels."""
        with self._lock:
            return self._values.get(key, 0)

    def total(self) -> float:
        """Return the sum over all labels."""
        with self._lock:
            return sum(self._values.values())

    def family(self) -> Family:
        """Return the lines."""
        with self._lock:
            samples = tuple(Sample(self._name, key, value) for key, value in sorted(self._values.items()))
        return Family(self._name, "counter", self._text, samples)


class Histogram:
    """Durations in seconds by labels, or what `bounds` are in, in fixed buckets."""

    def __init__(self, name: str, text: str, bounds: Sequence[float] = BUCKETS_S) -> None:
        self._name, self._text, self._bounds = name, text, tuple(bounds)
        self._lock = threading.Lock()
        self._counts: Dict[Labels, List[int]] = {}
        self._sums: Dict[Labels, float] = {}

    def observe(self, key: Labels, seconds: float) -> None:
        """Count one of them."""
        place = bisect.bisect_left(self._bounds, seconds)
        with self._lock:
            if key not in self._sums:
                self._counts[key], self._sums[key] = [0] * (len(self._bounds) + 1), 0.0
            self._counts[key][place] += 1
            self._sums[key] += seconds

    def mean_ms(self, key: Labels) -> float:
        """Return the mean with these labels in milliseconds, 0 where there is none."""
        with self._lock:
            return 1e3 * self._sums[key] / sum(self._counts[key]) if key in self._sums else 0.0

    def family(self) -> Family:
        """Return the lines: cumulative buckets, sum and count."""
        samples: List[Sample] = []
        with self._lock:
            for key, counts in sorted(self._counts.items()):
                total = 0
                for bound, count in zip([repr(bound) for bound in self._bounds] + ["+Inf"], counts):
                    total += count
                    samples.append(Sample(self._name + "_bucket", key + (("le", bound),), total))
                samples.append(Sample(self._name + "_sum", key, self._sums[key]))
                samples.append(Sample(self._name + "_count", key, total))
        return Family(self._name, "histogram", self._text, tuple(samples))


def gauge(name: str, text: str, values: Mapping[Labels, float]) -> Family:
    """Return a metric of values that come and go."""
    return Family(name, "gauge", text, tuple(Sample(name, key, value) for key, value in sorted(values.items())))


def exposition(families: List[Family]) -> str:
    """Return Prometheus' text format 0.0.4."""
    lines = []
    for family in families:
        lines.append("# HELP {} {}".format(family.name, family.help))
        lines.append("# TYPE {} {}".format(family.name, family.kind))
        for sample in family.samples:
            shown = ",".join('{}="{}"'.format(name, _escaped(value)) for name, value in sample.labels)
            lines.append("{}{} {}".format(sample.name, "{" + shown + "}" if shown else "", _number(sample.value)))
    return "\n".join(lines) + "\n"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
