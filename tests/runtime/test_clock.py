"""A clock that is set, by hand or by NTP, changes nothing: deadlines and breakers go by the monotonic clock."""

import itertools
import re
import sys
import time
import types
from pathlib import Path
from typing import List

import numpy as np
import pytest

import coformer_runtime
from coformer_runtime.breaker import FAILURES, Breaker
from coformer_runtime.client import Client
from coformer_runtime.front import open_front
from tests.runtime import bundles
from tests.runtime.nodes import EVERYONE, PIXELS, gathering, serving

DAY_S = 86400.0
WALL_CLOCK = {  # who may ask for the date, and what for
    "failures.py": "the time of a line of the log",
    "trace.py": "when a span was, for the collector",
    "shipping/pull.py": "whether a release has expired",
}


def jump(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on every look of ours at the wall clock is days before or after the last; gRPC's core has its own."""
    jumping, days = types.ModuleType("time"), itertools.cycle((1, -1, 300, -300))
    vars(jumping).update(vars(time), time=lambda: time.time() + DAY_S * next(days))
    for name, module in list(sys.modules.items()):
        if name.startswith("coformer_runtime.") and getattr(module, "time", None) is time:
            monkeypatch.setattr(module, "time", jumping)


def test_answers_while_the_clock_jumps(cluster_dirs: List[str], monkeypatch: pytest.MonkeyPatch) -> None:
    jump(monkeypatch)
    with serving(cluster_dirs[1]) as hall, serving(cluster_dirs[2]) as desk, gathering(
        cluster_dirs[0], [hall, desk], deadline_ms=10_000
    ) as central:
        server, address = open_front(central, "127.0.0.1:0")
        with Client(address) as client:
            for _ in range(10):
                answer = client.infer(PIXELS)
                assert not answer.degraded and 0 < answer.phases.total_ms < 10_000
                np.testing.assert_allclose(answer.logits, bundles.answer_of(EVERYONE, PIXELS), rtol=1e-4, atol=1e-4)
        assert 0 <= central.observed.status(central)["uptime_s"] < 3600
        server.stop(0).wait()


def test_a_breaker_rests_as_long_as_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    breaker = Breaker()
    jump(monkeypatch)
    for number in range(FAILURES):
        breaker.failed(time.monotonic() + number * 1e-6)
    assert breaker.state() == "open" and 0 < breaker.wait_s() <= 15.0 and not breaker.admit()


def test_nobody_else_looks_at_the_wall_clock() -> None:
    sources = Path(coformer_runtime.__file__).parent
    asking = {
        path.relative_to(sources).as_posix()
        for path in sources.rglob("*.py")
        if re.search(r"\btime\.(time|localtime|ctime)\(|\bdatetime\b", path.read_text())
    }
    assert asking <= set(WALL_CLOCK), "deadlines go by time.monotonic()"
