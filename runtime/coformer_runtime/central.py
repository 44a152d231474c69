"""The central node: one round of questions to all members, one aggregation, one answer."""

import itertools
import threading
import time
from concurrent.futures import Future, wait
from types import TracebackType
from typing import Dict, List, Optional, Sequence, Tuple, Type

from . import wire
from .answer import Answer, Phases
from .arrays import Array
from .bundle import Bundle
from .central_options import CentralOptions, check_options, split_worker, usable_aggregators
from .engines import Engine, feature_name, open_aggregator, open_member
from .errors import CheckFailed
from .manifest import AggregatorSpec, TensorSpec
from .members import OwnMember, Reply, WorkerLink, failed, greeting_refusal

FIRST_CONTACT_S = 1.0  # so that the first request after the start finds the workers that are up


class Unanswered(CheckFailed):
    """Too few members answered, or not in time (`late`); the request itself was right."""

    def __init__(self, what: str, where: str, mend: str, late: bool = False) -> None:
        super().__init__(what, where, mend)
        self.late = late


class Central:
    """Answers inputs with the help of the workers. A context manager.

    Entering loads the graphs and waits up to a second for each worker to be reached or to be found missing.

    Args:
        bundle: the verified bundle of the central device.
        options: how to run.

    Raises:
        CoformerError: on entering, for a bundle or options that cannot work.
    """

    def __init__(self, bundle: Bundle, options: CentralOptions) -> None:
        check_options(bundle.manifest, options)
        self.manifest, self.options = bundle.manifest, options
        self._bundle = bundle
        self._ids = itertools.count(1)
        self._links: List[WorkerLink] = []
        self._aggregators: Dict[Tuple[int, ...], Engine] = {}
        self._aggregating, self._claiming = threading.Lock(), threading.Lock()
        self._features: Dict[int, TensorSpec] = {}
        self._own: Optional[OwnMember] = None

    def __enter__(self) -> "Central":
        try:
            self._own = OwnMember(open_member(self._bundle, self.options.threads), self.manifest)
            for spec in usable_aggregators(self.manifest, self.options.min_members):
                self._aggregators[spec.members] = open_aggregator(self._bundle, spec)
            everyone = tuple(range(len(self.manifest.members)))
            taken = {spec.name: spec for spec in self._aggregators[everyone].inputs}
            self._features = {member: taken[feature_name(member)] for member in everyone}
            for worker in self.options.workers:
                expected, address = split_worker(worker)
                self._links.append(WorkerLink(address, self.manifest, expected, self._claim))
            until = time.monotonic() + FIRST_CONTACT_S
            for link in self._links:
                link.tried.wait(max(0.0, until - time.monotonic()))
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
        for link in self._links:
            link.close()
        if self._own is not None:
            self._own.close()
        for engine in self._aggregators.values():
            engine.close()

    def missing(self) -> Dict[str, str]:
        """Return device → why it cannot be asked now, for the members that cannot."""
        return {
            self.manifest.members[index]: reason
            for index, (link, reason) in self._roster().items()
            if link is None and index != self.manifest.member
        }

    def ready(self) -> bool:
        """Whether a request could be answered now."""
        gone = {self.manifest.members.index(device) for device in self.missing()}
        present = [index for index in range(len(self.manifest.members)) if index not in gone]
        return self._choose(present) is not None

    def answer(self, array: Array, budget_s: Optional[float] = None) -> Answer:
        """Answer one input of the manifest's dtype and shape.

        Args:
            array: the input.
            budget_s: the caller's own limit in seconds, if shorter than the deadline.

        Raises:
            Unanswered: too few members answered; names each missing one and why.
        """
        started = time.monotonic()
        allowed_s = self.options.deadline_ms / 1e3
        allowed_s = allowed_s if budget_s is None else min(allowed_s, max(budget_s, 0.0))
        replies = self._gather(array, started + allowed_s)
        gathered = time.monotonic()
        names = self.manifest.members
        present = [index for index in sorted(replies) if replies[index].features is not None]
        missing = {names[index]: reply.failure for index, reply in replies.items() if reply.features is None}
        spec = self._choose(present)
        if spec is None:
            late = [reply.late for reply in replies.values() if reply.features is None]
            raise self._unanswered(missing, bool(late) and all(late))
        logits = self._aggregate(spec, replies)
        ended = time.monotonic()
        answered = {names[index]: replies[index] for index in present}
        return Answer(
            logits,
            members=tuple(names[index] for index in spec.members),
            degraded=len(spec.members) < len(names),
            missing=missing,
            expected_accuracy=spec.expected_accuracy,
            build=self.manifest.build,
            phases=_phases(started, gathered, ended, answered),
        )

    def _gather(self, array: Array, deadline: float) -> Dict[int, Reply]:
        """Ask every member at once and return its reply by member index; all are there at the deadline."""
        manifest, roster = self.manifest, self._roster()
        request_id = next(self._ids)
        futures: Dict[int, "Future[Reply]"] = {}
        replies = {
            index: failed(why) for index, (link, why) in roster.items() if link is None and index != manifest.member
        }
        reachable = [index for index in range(len(manifest.members)) if index not in replies]
        if self._choose(reachable) is None:
            return replies
        budget_ms = max(1, int((deadline - time.monotonic()) * 1e3))
        frame = wire.tensor_frame(wire.REQUEST, request_id, manifest.build, array, budget_ms, manifest.member)
        data = wire.encode_frame(frame)
        for index, (link, _) in roster.items():
            if link is not None:
                futures[index] = link.ask(request_id, data)
        assert self._own is not None
        futures[manifest.member] = self._own.ask(array, deadline)
        wait(list(futures.values()), max(0.0, deadline - time.monotonic()))
        for index, future in futures.items():
            if future.done():
                replies[index] = self._checked(index, future.result())
            else:
                replies[index] = failed("late: no answer within {} ms".format(budget_ms), late=True)
                link = roster[index][0]
                if link is not None:
                    link.forget(request_id)
                else:
                    future.cancel()
        return replies

    def _checked(self, index: int, reply: Reply) -> Reply:
        """Return the reply, or a failure where its features are not finite numbers of the right shape."""
        import numpy

        features = reply.features
        if features is None:
            return reply
        wanted = self._features[index]
        if (features.dtype.name, features.shape) != (wanted.dtype, wanted.shape):
            return failed(
                "its features are {} of shape {}, not {} of shape {}".format(
                    features.dtype.name, list(features.shape), wanted.dtype, list(wanted.shape)
                )
            )
        finite = int(numpy.isfinite(features).sum())
        if finite != features.size:
            return failed("{} of its {} features are not finite".format(features.size - finite, features.size))
        return reply

    def _aggregate(self, spec: AggregatorSpec, replies: Dict[int, Reply]) -> Array:
        import numpy

        features = {index: reply.features for index, reply in replies.items() if reply.features is not None}
        feeds = {feature_name(index): features[index] for index in spec.members}
        with self._aggregating:
            logits = self._aggregators[spec.members].run(feeds)[self.manifest.answer.name]
        if not numpy.isfinite(logits).all():
            raise Unanswered(
                "the answer is not finite",
                "aggregator of {}".format(list(spec.members)),
                "run 'coformer-node validate' on the bundles",
            )
        return logits

    def _choose(self, present: Sequence[int]) -> Optional[AggregatorSpec]:
        """Return the best aggregator that the present members can feed, or None."""
        usable = usable_aggregators(self.manifest, self.options.min_members)
        fed = [spec for spec in usable if set(spec.members) <= set(present)]
        return max(fed, key=lambda spec: (len(spec.members), spec.expected_accuracy)) if fed else None

    def _roster(self) -> Dict[int, Tuple[Optional[WorkerLink], str]]:
        """Return member index → its link that can be asked now, or None and why not."""
        roster: Dict[int, Tuple[Optional[WorkerLink], str]] = {}
        seen = [(link, link.member, link.problem) for link in self._links]  # other threads write to them
        for index, device in enumerate(self.manifest.members):
            asked = [link for link, member, problem in seen if problem is None and member == index]
            reasons = [
                problem
                for link, member, problem in seen
                if problem is not None and self._likely(link, member) in (device, None)
            ]
            if asked:
                roster[index] = (asked[0], "")
            else:
                roster[index] = (None, "; ".join(reasons) or "no worker's address was given for it")
        return roster

    def _likely(self, link: WorkerLink, member: Optional[int]) -> Optional[str]:
        """Return the device that should answer or last answered at a link; None where nobody knows."""
        if link.expected is not None:
            return link.expected
        return None if member is None else self.manifest.members[member]

    def _claim(self, link: WorkerLink, greeting: wire.Greeting) -> Optional[str]:
        """Give the greeting's member to this link, or return why not."""
        refusal = greeting_refusal(greeting, link, self.manifest, self._features)
        if refusal is not None:
            return refusal
        with self._claiming:
            for other in self._links:
                if other is not link and other.claimed and other.member == greeting.member:
                    return "{} serves '{}', as {} does already".format(link.address, greeting.device, other.address)
            link.member, link.claimed = greeting.member, True
        return None

    def _unanswered(self, missing: Dict[str, str], late: bool) -> Unanswered:
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
            late,
        )


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
