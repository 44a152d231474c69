"""Aggregators: a request waits for those of others no longer than it may."""

import threading
import time
from typing import Any, Dict, List

import numpy as np
import pytest

from coformer_runtime.aggregators import Aggregators
from coformer_runtime.bundle import open_bundle
from coformer_runtime.central import Unanswered
from coformer_runtime.engines import Engine
from coformer_runtime.front import refusal_code
from coformer_runtime.members import LATE, Reply
from tests.runtime import bundles
from tests.runtime.nodes import EVERYONE, PIXELS, settled


class Stalling(Engine):
    """An engine that first waits until it may run."""

    def __init__(self, engine: Engine, may: threading.Event) -> None:
        self._engine, self._may = engine, may
        self.inputs, self.outputs = engine.inputs, engine.outputs
        self.begun = 0

    def run(self, feeds: Dict[str, Any]) -> Dict[str, Any]:
        """Wait, then run."""
        self.begun += 1
        assert self._may.wait(20)
        return self._engine.run(feeds)

    def close(self) -> None:
        """Free the engine."""
        self._engine.close()


def test_a_stalled_aggregator_holds_nobody_beyond_his_deadline(cluster_dirs: List[str]) -> None:
    may, first = threading.Event(), []
    aggregators = Aggregators(open_bundle(cluster_dirs[0]), None)
    aggregators.open()
    stalling = Stalling(aggregators._engines[EVERYONE], may)
    aggregators._engines[EVERYONE] = stalling
    spec = aggregators.choose(frozenset(EVERYONE))
    assert spec is not None
    replies = {index: Reply(bundles.features_of(index, PIXELS)) for index in EVERYONE}
    thread = threading.Thread(target=lambda: first.append(aggregators.run(spec, replies, 1)))
    thread.start()
    settled(lambda: stalling.begun == 1)
    for deadline_s in (0.1, -1.0):  # one that is over already waits hardly at all
        started = time.monotonic()
        with pytest.raises(Unanswered) as caught:
            aggregators.run(spec, replies, 1, started + deadline_s)
        assert max(0.0, deadline_s) <= time.monotonic() - started < max(0.0, deadline_s) + 0.5
    assert str(caught.value) == (
        "aggregator of [0, 1, 2]: late: other requests were still being aggregated; "
        "allow more time, or send fewer requests at once"
    )
    assert caught.value.cause == LATE and refusal_code(caught.value).name == "DEADLINE_EXCEEDED"
    may.set()
    thread.join()
    again = aggregators.run(spec, replies, 1, time.monotonic() + 5)
    for logits in (first[0], again):
        np.testing.assert_allclose(logits, bundles.answer_of(EVERYONE, PIXELS), rtol=1e-4, atol=1e-4)
    aggregators.close()
