"""A central node with alternatives: answers with the one that the links' measured rate calls for.

Every alternative has its own `Central`, open all the time, with its own streams to the workers: a change costs nothing,
a request ends where it began, and a worker is asked only for builds that its hello has named. Chosen is

- the alternative of the range that the measured rate lies in, by `Hysteresis`, if all of its members can be asked;
- else the one that was used last, while it can answer;
- else the nearest one that can.
"""

import contextlib
import threading
import time
from types import TracebackType
from typing import Any, Callable, Dict, FrozenSet, List, Optional, Tuple, Type

from .alternatives import Held
from .answer import Answer
from .arrays import Array
from .central import ALONE, Central, Load
from .central_options import CentralOptions, split_worker
from .dtypes import count_elements, dtype_named
from .errors import CoformerError
from .exchange import Exchange
from .failures import log
from .hysteresis import Hysteresis
from .link_rate import LinkRate
from .manifest import AggregatorSpec, Manifest
from .metrics import Family, Labels, gauge, labels
from .observe import Observed

PROBE_EVERY_S = 3.0
"""Where the alternative in use asks no worker, the links are measured so often, by as many bytes as an input has."""


class Switching:
    """Answers inputs as a `Central` does. A context manager.

    Args:
        held: the verified alternatives of a device that can aggregate.
        options: how to run; every worker with its device's name.
        clock: seconds, as of `time.monotonic`.

    Attributes:
        rate: what measures the links.
        switches: how often the alternative has changed.

    Raises:
        CoformerError: on entering, for bundles or options that cannot work.
    """

    def __init__(self, held: Held, options: CentralOptions, clock: Callable[[], float] = time.monotonic) -> None:
        _check(held, options)
        self.options, self._clock, self._index = options, clock, held.listing
        self.rate = LinkRate(clock)
        self.switches = 0
        devices = sorted({name for bundle in held.bundles.values() for name in bundle.manifest.members})
        start = held.listing.start if held.listing.start in held.bundles else next(iter(held.bundles))
        self.observed = Observed(held.bundles[start].manifest.build[:12], devices)
        self._centrals = {
            name: Central(bundle, _options_for(bundle.manifest, options), self.observed, self.rate)
            for name, bundle in held.bundles.items()
        }
        self._active = start
        ranges = held.listing.ranges
        place = next(n for n, each in enumerate(ranges) if each.alternative == held.listing.start)
        self._hysteresis = Hysteresis([each.from_mbps for each in ranges[1:]], place)
        self._choosing = threading.Lock()
        self._probed = clock()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Switching":
        with contextlib.ExitStack() as stack:
            for central in self._centrals.values():
                stack.enter_context(central)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self._stack.close()

    @property
    def active(self) -> str:
        """The name of the alternative that is used."""
        return self._active

    @property
    def manifest(self) -> Manifest:
        """Of the alternative that is used; input and answer are those of all."""
        return self._centrals[self._active].manifest

    @property
    def in_progress(self) -> int:
        """Requests of all alternatives."""
        return sum(central.in_progress for central in self._centrals.values())

    @property
    def stood_by(self) -> bool:
        """Whether other central nodes ask this one as a worker, for any alternative."""
        return any(central.stood_by for central in self._centrals.values())

    def versions(self) -> Tuple[str, ...]:
        """Return the versions that are served, one for each alternative."""
        return tuple(version for central in self._centrals.values() for version in central.versions())

    def serving(self, version: str = "") -> Central:
        """Return what answers a request that comes now: the alternative in use, or the one of a version."""
        for central in self._centrals.values() if version else ():
            if version in central.versions():
                return central
        self._look()
        return self._centrals[self._active]

    def answer(
        self,
        array: Array,
        budget_s: Optional[float] = None,
        on_gone: Optional[Callable[[Callable[[], None]], bool]] = None,
        broadcast: Optional[int] = None,
        without: FrozenSet[str] = frozenset(),
        load: Load = ALONE,
    ) -> Answer:
        """Answer one input; see `Central.answer`."""
        return self.serving().answer(array, budget_s, on_gone, broadcast, without, load)

    def ready(self) -> bool:
        """Whether a request could be answered now."""
        return any(central.ready() for central in self._centrals.values())

    def present(self) -> Optional[AggregatorSpec]:
        """Return the aggregator that would answer now, None where none can; of the alternative in use."""
        return self._centrals[self._active].present()

    def missing(self) -> Dict[str, str]:
        """Return device → why it would not be asked now, of the alternative in use."""
        return self._centrals[self._active].missing()

    def breaker_states(self) -> Dict[str, str]:
        """Return device → state, of the alternative in use."""
        return self._centrals[self._active].breaker_states()

    def breaker_openings(self) -> Dict[str, int]:
        """Return device → how often its breakers have opened, of all alternatives."""
        return _sum([central.breaker_openings() for central in self._centrals.values()])

    def retries(self) -> Dict[str, int]:
        """Return address → requests that were sent a second time, of all alternatives."""
        return _sum([central.retries() for central in self._centrals.values()])

    def exchange(self) -> Exchange:
        """Return this node's end of the device edge, for all alternatives."""
        first, *others = self._centrals.values()
        return first.exchange([central.exchange() for central in others])

    def families(self) -> List[Family]:
        """Return all metrics; those of the alternatives besides a single build's."""
        with self._choosing:  # the alternative in use does not change under the hand that writes
            return self._families()

    def _families(self) -> List[Family]:
        rate = self.rate.rate()
        names = {name: labels({"alternative": name}) for name in self._centrals}
        measured: Dict[Labels, float] = {} if rate is None else {(): rate.low}
        return self.observed.families(self) + [
            gauge("coformer_alternative_active", "Whether an alternative is used",
                  {key: int(name == self._active) for name, key in names.items()}),
            gauge("coformer_alternative_whole", "Whether all members of an alternative would be asked now",
                  {key: int(not self._centrals[name].missing()) for name, key in names.items()}),
            Family("coformer_alternative_switches_total", "counter", "Changes of the alternative",
                   gauge("coformer_alternative_switches_total", "", {(): self.switches}).samples),
            gauge("coformer_link_mbps", "Measured rate of the links, in Mbit/s", measured),
        ]  # fmt: skip

    def status(self) -> Dict[str, Any]:
        """Return what the live page and `coformer-node status` show, as JSON values."""
        with self._choosing:
            return self._status()

    def _status(self) -> Dict[str, Any]:
        rate = self.rate.rate()
        return dict(
            self.observed.status(self),
            alternatives={
                "active": self._active,
                "switches": self.switches,
                "measured_mbps": None if rate is None else rate.low,
                "ranges": [each._asdict() for each in self._index.ranges],
                "held": [
                    {
                        "name": name,
                        "build": central.manifest.build,
                        "members": list(central.manifest.members),
                        "missing": central.missing(),
                    }
                    for name, central in self._centrals.items()
                ],
            },
        )

    def _look(self) -> None:
        """Choose anew; the log has a line for each change."""
        with self._choosing:
            now, rate = self._clock(), self.rate.rate()
            self._probe(now)
            place = self._hysteresis.update(rate, now)
            chosen = self._choose(place)
            if chosen == self._active:
                return
            before, self._active = self._active, chosen
            self.switches += 1
            wanted = self._index.ranges[place].alternative == chosen
            log(
                "alternative",
                {
                    "from": before,
                    "to": chosen,
                    "build": self._centrals[chosen].manifest.build[:12],
                    "mbps": round(rate.low, 3) if rate is not None else "not measured",
                    "reason": "rate of the links" if wanted else "members are away",
                },
            )

    def _choose(self, place: int) -> str:
        """Return the name of the alternative for a place among the ranges, as far as members are there."""
        names = [each.alternative for each in self._index.ranges]
        wanted = self._centrals.get(names[place])
        if wanted is not None and (wanted.ready() if names[place] == self._active else not wanted.missing()):
            return names[place]
        if self._centrals[self._active].ready():
            return self._active
        nearest = sorted(range(len(names)), key=lambda other: abs(other - place))
        able = [names[n] for n in nearest if names[n] in self._centrals and self._centrals[names[n]].ready()]
        return able[0] if able else self._active

    def _probe(self, now: float) -> None:
        """Measure where requests do not: the alternative in use asks no worker."""
        if len(self.manifest.members) > 1 or now - self._probed < PROBE_EVERY_S:
            return
        self._probed = now
        largest = max(self._centrals.values(), key=lambda central: len(central.manifest.members))
        spec = self.manifest.input
        largest.probe(count_elements(spec.shape) * dtype_named(spec.dtype, "manifest").size_bytes)


def _check(held: Held, options: CentralOptions) -> None:
    """Raise a CoformerError for options that do not go together with alternatives."""
    where = "central node '{}'".format(held.device)
    if options.broadcast:
        raise CoformerError(
            "clients that send inputs to every device cannot know which alternative is used",
            where,
            "leave --broadcast away, or serve one alternative: {}".format(_folders(held)),
        )
    known = {device for alternative in held.listing.alternatives for device, _ in alternative.manifests}
    for worker in options.workers:
        device, _ = split_worker(worker)
        if device is None:
            raise CoformerError(
                "a worker of alternatives needs its device's name", "--worker " + worker, "write DEVICE=HOST:PORT"
            )
        if device not in known:
            raise CoformerError(
                "'{}' takes part in none of the alternatives".format(device),
                "--worker " + worker,
                "name one of {}".format(", ".join(sorted(known - {held.device}))),
            )


def _folders(held: Held) -> str:
    return ", ".join(bundle.directory for bundle in held.bundles.values())


def _options_for(manifest: Manifest, options: CentralOptions) -> CentralOptions:
    """Return the options of one alternative: only its own members, and no more of them needed than there are."""
    members = manifest.members
    least = options.min_members
    return options._replace(
        workers=tuple(worker for worker in options.workers if split_worker(worker)[0] in members),
        min_members=None if least is None else min(least, len(members)),
    )


def _sum(counts: List[Dict[str, int]]) -> Dict[str, int]:
    """Return the sums by key."""
    return {key: sum(each.get(key, 0) for each in counts) for key in sorted({k for each in counts for k in each})}
