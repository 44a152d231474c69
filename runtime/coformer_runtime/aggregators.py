"""The aggregators of a central bundle: what they take, and which one answers for the members that are there."""

import threading
import time
from typing import Dict, FrozenSet, Optional, Tuple

from .arrays import Array
from .bundle import Bundle
from .central_options import usable_aggregators
from .engines import Engine, feature_name, open_aggregator
from .manifest import AggregatorSpec, TensorSpec
from .members import BROKEN, LATE, Reply, failed

TURN_S = 0.005  # that a request may wait for its turn in any case


class Aggregators:
    """One engine for each subset of devices that may answer.

    Args:
        bundle: the verified bundle of a device that holds aggregators.
        min_members: the smallest subset that may answer; None: all members.
    """

    def __init__(self, bundle: Bundle, min_members: Optional[int]) -> None:
        self._bundle, self._answer = bundle, bundle.manifest.answer.name
        self._usable = usable_aggregators(bundle.manifest, min_members)
        self._chosen: Dict[FrozenSet[int], Optional[AggregatorSpec]] = {}
        self._engines: Dict[Tuple[int, ...], Engine] = {}
        self._running = threading.Lock()
        self.features: Dict[int, TensorSpec] = {}

    def open(self) -> None:
        """Load the graphs; `features` then says what each member has to send."""
        for spec in self._usable:
            self._engines[spec.members] = open_aggregator(self._bundle, spec)
        everyone = tuple(range(len(self._bundle.manifest.members)))
        taken = {spec.name: spec for spec in self._engines[everyone].inputs}
        self.features.update({member: taken[feature_name(member)] for member in everyone})

    def close(self) -> None:
        """Free the engines."""
        for engine in self._engines.values():
            engine.close()

    def choose(self, present: FrozenSet[int]) -> Optional[AggregatorSpec]:
        """Return the best aggregator that the present members can feed, or None; found once for each such set."""
        if present not in self._chosen:
            fed = [spec for spec in self._usable if present.issuperset(spec.members)]
            best = max(fed, key=lambda spec: (len(spec.members), spec.expected_accuracy)) if fed else None
            self._chosen[present] = best
        return self._chosen[present]

    def run(
        self, spec: AggregatorSpec, replies: Dict[int, Reply], samples: int, deadline: Optional[float] = None
    ) -> Array:
        """Return the logits of one aggregator, `(samples, outputs)`; its members have replied with features.

        An aggregator is one small product, so that a batch is aggregated sample by sample by the one graph there is, in
        place of one graph more for every subset and batch size.

        Args:
            spec: the aggregator.
            replies: by member index.
            samples: how many rows the features have.
            deadline: time.monotonic() seconds until which it may wait for another request's aggregation; None: forever.

        Raises:
            Unanswered: the others were not done by then.
        """
        import numpy

        features = {index: reply.features for index, reply in replies.items() if reply.features is not None}
        engine, logits = self._engines[spec.members], []
        # Requests whose members were late come here together, at their deadline: none is refused for a few fast runs.
        left_s = -1 if deadline is None else max(TURN_S, deadline - time.monotonic())
        if not self._running.acquire(timeout=left_s):
            raise self._stalled(spec)
        try:
            for row in range(samples):
                feeds = {feature_name(index): features[index][row : row + 1] for index in spec.members}
                logits.append(engine.run(feeds)[self._answer])
        finally:
            self._running.release()
        return logits[0] if samples == 1 else numpy.concatenate(logits)

    def _stalled(self, spec: AggregatorSpec) -> Exception:
        from .central import Unanswered  # which imports this module

        return Unanswered(
            "late: other requests were still being aggregated",
            "aggregator of {}".format(list(spec.members)),
            "allow more time, or send fewer requests at once",
            LATE,
        )

    def checked(self, index: int, reply: Reply, samples: int) -> Reply:
        """Return the reply, or a failure where its features are not finite numbers of the right shape."""
        import numpy

        features = reply.features
        if features is None:
            return reply
        wanted, shape = self.features[index], (samples,) + self.features[index].shape[1:]
        if features.shape != shape or features.dtype != wanted.dtype:
            return failed(
                "its features are {} of shape {}, not {} of shape {}".format(
                    features.dtype.name, list(features.shape), wanted.dtype, list(shape)
                ),
                BROKEN,
            )
        finite = numpy.isfinite(features)
        if not finite.all():
            wrong = features.size - int(finite.sum())
            return failed("{} of its {} features are not finite".format(wrong, features.size), BROKEN)
        return reply
