"""The central node: one round of questions to all members, one aggregation, one answer."""

import functools
import itertools
import threading
import time
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Callable, Dict, FrozenSet, Iterable, List, NamedTuple, Optional, Sequence, Tuple, Type

from . import wire
from .aggregators import Aggregators
from .answer import Answer, Phases
from .arrays import Array
from .breaker import FAILURES, Breaker
from .broadcast import Broadcasts, Joined
from .bundle import Bundle
from .central_options import CentralOptions, check_options
from .engines import open_member
from .errors import CheckFailed, CoformerError
from .exchange import Exchange
from .failures import log
from .gather import Round, Unheards
from .link import WorkerLink
from .link_rate import LinkRate
from .manifest import AggregatorSpec
from .members import AWAY, BUSY, LATE, SPARED, OwnMember, Reply, failed
from .metrics import Family
from .observe import Observed
from .roster import Roster


class Unanswered(CheckFailed):
    """Too few members answered; the request itself was right.

    Attributes:
        cause: LATE or BUSY where that is all that is wrong with the members that are missing, AWAY otherwise.
    """

    def __init__(self, what: str, where: str, mend: str, cause: str = AWAY) -> None:
        super().__init__(what, where, mend)
        self.cause = cause


class Load(NamedTuple):
    """What one round answers: so many requests, with so many samples of their own (None: as many as the input)."""

    requests: int = 1
    samples: Optional[int] = None


class CalledOff(CheckFailed):
    """The caller has gone; nobody waits for the answer."""


ALONE = Load()


class _Asking(NamedTuple):
    """One member of one request: its future reply, and how to tell it that nobody waits any more."""

    reply: "Future[Reply]"
    cancel: Callable[[], None]


class Central:
    """Answers inputs with the help of the workers. A context manager.

    Entering loads the graphs and waits up to a second for each worker to be reached or to be found missing.

    Args:
        bundle: the verified bundle of the central device.
        options: how to run.
        observed: where to count; None: counts of its own.
        rate: what measures the links; None: nothing does.

    Raises:
        CoformerError: on entering, for a bundle or options that cannot work.
    """

    def __init__(
        self,
        bundle: Bundle,
        options: CentralOptions,
        observed: Optional[Observed] = None,
        rate: Optional[LinkRate] = None,
    ) -> None:
        check_options(bundle.manifest, options)
        self.manifest, self.options = bundle.manifest, options
        self._bundle = bundle
        self._ids = itertools.count(1)
        self._counting = threading.Lock()
        self._aggregators = Aggregators(bundle, options.min_members)
        self._roster = Roster(self.manifest, self._aggregators.features)
        self._own: Optional[OwnMember] = None
        others = [index for index in range(len(self.manifest.members)) if index != self.manifest.member]
        self._broadcasts = Broadcasts(others, options.deadline_ms / 1e3)
        self.observed = observed or Observed(self.manifest.build[:12], self.manifest.members)
        self._rate = rate
        self.in_progress = 0
        everyone = range(len(self.manifest.members))
        self._everyone = frozenset(everyone)
        self._breakers = {
            index: Breaker(changed=functools.partial(_log_breaker, self.manifest.members[index])) for index in everyone
        }
        self._unheard = {index: Unheards(self._breakers[index]) for index in everyone}

    def __enter__(self) -> "Central":
        try:
            self._own = OwnMember(open_member(self._bundle, self.options.threads), self.manifest)
            self._aggregators.open()
            self._roster.open(self.options, self._broadcasts.arrived, self._rate)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up on the workers and free the engines."""
        self._roster.close()
        if self._own is not None:
            self._own.close()
        self._aggregators.close()

    def exchange(self, others: Sequence[Exchange] = ()) -> Exchange:
        """Return this node's end of the device edge: for the other central nodes of the cluster it is a worker.

        `others` are those of the other builds that this node serves.
        """
        assert self._own is not None
        return Exchange(self.manifest, self._own.infer, self._own.free, None, others)

    @property
    def stood_by(self) -> bool:
        """Whether other central nodes ask this one as a worker."""
        return bool(self.manifest.standby)

    def serving(self, version: str = "") -> "Central":
        """Return what answers a request for this version of the model, "" for any."""
        return self

    def versions(self) -> Tuple[str, ...]:
        """Return the versions that are served, as clients name them."""
        return (self.manifest.build[:12],)

    def families(self) -> List[Family]:
        """Return all metrics."""
        return self.observed.families(self)

    def status(self) -> Dict[str, Any]:
        """Return what the live page and `coformer-node status` show, as JSON values."""
        return self.observed.status(self)

    def probe(self, size_bytes: int) -> None:
        """Let the links be measured by a message of this size to each worker, where no request does it."""
        links = {n: link for n, link in enumerate(self._roster.links) if link.problem is None}
        started = time.monotonic()
        echoes = {n: link.echo(size_bytes) for n, link in links.items()}
        if self._rate is not None and echoes:
            self._rate.watch(started, wire.HEADER.size + size_bytes, echoes)

    def missing(self) -> Dict[str, str]:
        """Return device → why it would not be asked now, for the members that would not."""
        self._judge()
        away = {index: reason for index, (_, reason) in self._roster.members().items() if reason}
        for index, breaker in self._breakers.items():
            if index not in away and breaker.state() == "open":
                away[index] = _resting(breaker)
        return {self.manifest.members[index]: away[index] for index in sorted(away)}

    def breaker_states(self) -> Dict[str, str]:
        """Return device → "closed", "open" or "half-open"."""
        self._judge()
        return {self.manifest.members[index]: breaker.state() for index, breaker in self._breakers.items()}

    def breaker_openings(self) -> Dict[str, int]:
        """Return device → how often its breaker has opened."""
        return {self.manifest.members[index]: breaker.opened for index, breaker in self._breakers.items()}

    def retries(self) -> Dict[str, int]:
        """Return the workers' address → how many requests were sent to it a second time."""
        return {link.address: link.retried for link in self._roster.links}

    def ready(self) -> bool:
        """Whether a request could be answered now."""
        return self.present() is not None

    def present(self) -> Optional[AggregatorSpec]:
        """Return the aggregator that would answer now, None where none can."""
        gone = {self.manifest.members.index(device) for device in self.missing()}
        return self._aggregators.choose(self._all_but(gone))

    def answer(
        self,
        array: Array,
        budget_s: Optional[float] = None,
        on_gone: Optional[Callable[[Callable[[], None]], bool]] = None,
        broadcast: Optional[int] = None,
        without: FrozenSet[str] = frozenset(),
        load: Load = ALONE,
    ) -> Answer:
        """Answer one input of the manifest's dtype and shape, or one request of a generation (`decoder.py`).

        Args:
            array: the input, of one of the bundle's shapes.
            budget_s: the caller's own limit in seconds, if shorter than the deadline.
            on_gone: takes a function to call when the caller is gone, so that the members need not go on; returns
                False where the caller is gone already.
            broadcast: the id under which the caller sends the input to the other members itself.
            without: devices that are not asked.
            load: what is counted.

        Raises:
            CoformerError: the id is in use, or this node takes none.
            Unanswered: too few members answered; names each missing one and why.
            CalledOff: the caller has gone.
        """
        with self._counting:
            self.in_progress += load.requests
        try:
            return self._answer(array, budget_s, on_gone, self._joined(broadcast), without, load)
        finally:
            with self._counting:
                self.in_progress -= load.requests

    def _joined(self, broadcast: Optional[int]) -> Optional[Joined]:
        if broadcast is None:
            return None
        if not self.options.broadcast:
            raise CoformerError(
                "inputs are forwarded by this node, not sent by clients",
                "request, parameter 'broadcast'",
                "leave it out, or start the nodes of the cluster with --broadcast",
            )
        return self._broadcasts.claim(broadcast)

    def _answer(
        self,
        array: Array,
        budget_s: Optional[float],
        on_gone: Optional[Callable[[Callable[[], None]], bool]],
        joined: Optional[Joined],
        without: FrozenSet[str],
        load: Load,
    ) -> Answer:
        started = time.monotonic() if joined is None else joined.first
        allowed_s = self.options.deadline_ms / 1e3
        allowed_s = allowed_s if budget_s is None else min(allowed_s, max(budget_s, 0.0))
        deadline = started + allowed_s
        replies = self._gather(array, started, deadline, on_gone, joined, without)
        gathered = time.monotonic()
        names = self.manifest.members
        present = [index for index in sorted(replies) if replies[index].features is not None]
        lost = {index: reply for index, reply in replies.items() if reply.features is None and reply.cause != SPARED}
        missing = {names[index]: reply.failure for index, reply in lost.items()}
        spec = self._aggregators.choose(frozenset(present))
        if spec is None:
            self.observed.unanswered(missing, load.requests)
            raise self._unanswered(missing, [reply.cause for reply in lost.values()])
        samples = self._samples(array)
        logits = self._aggregate(spec, replies, samples, deadline)
        ended = time.monotonic()
        answered = {names[index]: replies[index] for index in present}
        answer = Answer(
            logits,
            members=tuple(names[index] for index in spec.members),
            degraded=len(spec.members) < len(names),
            missing=missing,
            expected_accuracy=spec.expected_accuracy,
            build=self.manifest.build,
            phases=_phases(started, gathered, ended, answered),
        )
        sizes = {device: reply.features.nbytes for device, reply in answered.items() if reply.features is not None}
        own = samples if load.samples is None else load.samples
        self.observed.answered(answer, array.nbytes if joined is None else 0, sizes, load.requests, own)
        return answer

    def _gather(
        self,
        array: Array,
        started: float,
        deadline: float,
        on_gone: Optional[Callable[[Callable[[], None]], bool]],
        joined: Optional[Joined],
        without: FrozenSet[str],
    ) -> Dict[int, Reply]:
        """Ask every member at once and return its reply by member index; all are there at the deadline."""
        self._judge()
        roster, replies, probes = self._admitted(without)
        if self._aggregators.choose(self._all_but(replies)) is None:
            return replies
        budget_ms = max(1, int((deadline - time.monotonic()) * 1e3))
        asked = self._ask(roster, array, deadline, budget_ms) if joined is None else _expect(roster, joined)
        if self.manifest.member in roster:  # last: the others need not wait for it
            asked[self.manifest.member] = self._ask_own(array, deadline)
        # A member on probation is waited for only where there is no answer without it.
        needed = self._aggregators.choose(self._all_but({*replies, *probes})) is None
        awaited = {index: asking.reply for index, asking in asked.items() if needed or index not in probes}
        away = frozenset(replies)  # what follows changes `replies`, while late answers still ask this
        round_ = Round(awaited, lambda lost: self._aggregators.choose(self._all_but(away | lost)) is not None)
        if on_gone is not None and not on_gone(round_.call_off):
            round_.call_off()
        round_.wait(deadline - time.monotonic())
        given_up = time.monotonic() < deadline
        for index, asking in asked.items():
            if asking.reply.done():
                replies[index] = self._aggregators.checked(index, asking.reply.result(), self._samples(array))
                self._note(index, replies[index])
                continue
            self._unheard[index].add(asking.reply, started, started + self.options.deadline_ms / 1e3)
            if index in probes and not needed:
                replies[index] = failed("on probation: its answer was not waited for", AWAY)
                continue
            asking.cancel()
            replies[index] = (
                failed("not waited for: there was no answer without the others", SPARED)
                if given_up
                else failed("late: no answer within {} ms".format(budget_ms), LATE)
            )
        if round_.called_off:
            raise CalledOff("the caller has gone", "central node '{}'".format(self.manifest.device), "ask again")
        return replies

    def _admitted(
        self, without: FrozenSet[str]
    ) -> Tuple[Dict[int, Optional[WorkerLink]], Dict[int, Reply], FrozenSet[int]]:
        """Return member index → its link (None for this node's own) of those to ask, why not the others, and probes."""
        links: Dict[int, Optional[WorkerLink]] = {}
        replies, probes = {}, set()
        for index, (link, reason) in self._roster.members().items():
            breaker = self._breakers[index]
            resting = breaker.state() != "closed"
            if self.manifest.members[index] in without:
                replies[index] = failed("lost earlier, and its keys and values with it", AWAY)
            elif reason:
                replies[index] = failed(reason, AWAY)
            elif breaker.admit():
                links[index] = link
                probes |= {index} if resting else set()
            else:
                replies[index] = failed(_resting(breaker), AWAY)
        return links, replies, frozenset(probes)

    def _ask(
        self, roster: Dict[int, Optional[WorkerLink]], array: Array, deadline: float, budget_ms: int
    ) -> Dict[int, _Asking]:
        """Send the input to the workers among these members."""
        manifest, request_id = self.manifest, next(self._ids)
        frame = wire.tensor_frame(wire.REQUEST, request_id, manifest.build, array, budget_ms, manifest.member)
        data, started = wire.encode_frame(frame), time.monotonic()
        asked = {
            index: _Asking(link.ask(request_id, data, deadline), functools.partial(link.cancel, request_id))
            for index, link in roster.items()
            if link is not None
        }
        if self._rate is not None and asked:
            self._rate.watch(started, len(data), {index: asking.reply for index, asking in asked.items()})
        return asked

    def _ask_own(self, array: Array, deadline: float) -> _Asking:
        assert self._own is not None
        return _Asking(self._own.ask(array, deadline), lambda: None)

    def _note(self, index: int, reply: Reply) -> None:
        if reply.features is not None:
            self._breakers[index].succeeded()
        elif reply.broken:
            self._breakers[index].failed(reply.arrived)

    def _judge(self) -> None:
        now = time.monotonic()
        for unheard in self._unheard.values():
            unheard.judge(now)

    def _samples(self, array: Array) -> int:
        """Return how many samples an input holds; a request of a generation is a vector."""
        return len(array) if array.ndim == len(self.manifest.input.shape) else 1

    def _aggregate(self, spec: AggregatorSpec, replies: Dict[int, Reply], samples: int, deadline: float) -> Array:
        import numpy

        logits = self._aggregators.run(spec, replies, samples, deadline)
        if not numpy.isfinite(logits).all():
            raise Unanswered(
                "the answer is not finite",
                "aggregator of {}".format(list(spec.members)),
                "run 'coformer-node validate' on the bundles",
            )
        return logits

    def _all_but(self, gone: Iterable[int]) -> FrozenSet[int]:
        """Return the indices of the members that are not among these."""
        return self._everyone.difference(gone)

    def _unanswered(self, missing: Dict[str, str], causes: List[str]) -> Unanswered:
        names, least = self.manifest.members, self.options.min_members
        needed = "all {}".format(len(names)) if least is None else "at least {} of {}".format(least, len(names))
        reasons = ", ".join("{} ({})".format(name, missing[name]) for name in names if name in missing)
        mend = "mend the devices that are named" + (
            ", or start the central node with --min-members to answer without them" if least is None else ""
        )
        return Unanswered(
            "{} members are needed; missing: {}".format(needed, reasons),
            "central node '{}'".format(self.manifest.device),
            mend,
            causes[0] if causes and set(causes) in ({LATE}, {BUSY}) else AWAY,
        )


def _expect(roster: Dict[int, Optional[WorkerLink]], joined: Joined) -> Dict[int, _Asking]:
    """Return what a client has asked the workers among these members for itself."""
    return {index: _Asking(joined.futures[index], lambda: None) for index, link in roster.items() if link is not None}


def _log_breaker(device: str, state: str) -> None:
    log("breaker", {"device": device, "state": state})


def _resting(breaker: Breaker) -> str:
    return "not asked: it failed {} times in a row; it is asked again in {:.0f} s".format(FAILURES, breaker.wait_s())


def _phases(started: float, gathered: float, ended: float, answered: Dict[str, Reply]) -> Phases:
    """Return the phases from time.monotonic() seconds and the replies by device."""
    transfer_ms = {
        device: max(0.0, (reply.arrived - started) * 1e3 - reply.compute_ms) for device, reply in answered.items()
    }
    return Phases(
        total_ms=(ended - started) * 1e3,
        gather_ms=(gathered - started) * 1e3,
        aggregate_ms=(ended - gathered) * 1e3,
        compute_ms={device: reply.compute_ms for device, reply in answered.items()},
        transfer_ms=transfer_ms,
    )
