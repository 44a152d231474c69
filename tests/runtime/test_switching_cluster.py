"""Real processes behind a link that becomes narrow and wide again: the central node changes, answers stay right."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import numpy as np
import pytest

from coformer_runtime.answer import Answer
from coformer_runtime.client import Client
from coformer_runtime.cluster import free_address
from coformer_runtime.status import ask_status
from tests.runtime import bundles
from tests.runtime.alternatives import ALONE, BOUNDARY, MEMBERS, answer_of, make_alternatives, name_of
from tests.runtime.proxy import PASS, THROTTLE, Proxy

pytestmark = pytest.mark.slow

PHOTO = (1, 3, 224, 224)  # 150 kB: 0.3 s at 4 Mbit/s, 60 ms at the boundary
NARROW_MBPS = 4.0
PATIENCE_S = 90.0
SOURCES = str(Path(sys.modules["coformer_runtime"].__file__ or "").parents[1])


@contextlib.contextmanager
def node(*words: str) -> Iterator[str]:
    """A process of `coformer-node`; the address that it listens at."""
    command = [sys.executable, "-m", "coformer_runtime", *words, "--threads", "1", "--exit-with-stdin", "--allow-root"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(os.environ, PYTHONPATH=SOURCES)
    )
    assert process.stdin is not None and process.stdout is not None
    with process:
        yield process.stdout.readline().decode().split()[1]
        process.stdin.close()


class Site:
    """A cluster of three, its workers behind one proxy each."""

    def __init__(self, client: Client, proxies: List[Proxy], metrics: str, members: Dict[str, Tuple[int, ...]]) -> None:
        self._client, self._proxies, self._metrics, self._members = client, proxies, metrics, members
        self._photo = bundles.golden_pixels(PHOTO)[:1]

    def links(self, mode: str) -> None:
        for proxy in self._proxies:
            proxy.set(mode)

    def status(self) -> Dict[str, Any]:
        told: Dict[str, Any] = ask_status(self._metrics)["alternatives"]
        return told

    def answer(self) -> Answer:
        """Ask, and check the answer against the alternative that it says it is of."""
        answer = self._client.infer(self._photo)
        name = name_of(answer.build)
        assert answer.members == tuple(bundles.DEVICES[member] for member in self._members[name])
        np.testing.assert_allclose(answer.logits, answer_of(name, self._photo, self._members), rtol=1e-3, atol=1e-3)
        return answer

    def until(self, done: Callable[[Dict[str, Any]], bool]) -> Dict[str, Any]:
        """Go on asking until the status is such; every answer on the way is right."""
        end = time.monotonic() + PATIENCE_S
        while True:
            self.answer()
            told = self.status()
            if done(told):
                return told
            assert time.monotonic() < end, told


@contextlib.contextmanager
def site(folder: Path, members: Dict[str, Tuple[int, ...]]) -> Iterator[Site]:
    attic, *others = make_alternatives(folder, members, PHOTO)
    with contextlib.ExitStack() as stack:
        workers, proxies = [], []
        for other in others:
            address = stack.enter_context(node("serve", other))
            proxies.append(stack.enter_context(Proxy(address, mbps=NARROW_MBPS)))
            workers += ["--worker", "{}={}".format(Path(other).name, proxies[-1].address)]
        metrics = free_address()
        words = ["central", attic, *workers, "--deadline-ms", "10000", "--metrics", metrics]
        central = stack.enter_context(node(*words))
        client = stack.enter_context(Client(central, timeout_s=30.0))
        made = Site(client, proxies, metrics, members)
        while not client.ready():
            time.sleep(0.05)
        yield made


@pytest.mark.parametrize("members", [MEMBERS, ALONE], ids=["one device dropped", "central alone"])
def test_narrow_and_wide_again(tmp_path: Path, members: Dict[str, Tuple[int, ...]]) -> None:
    with site(tmp_path, members) as made:
        made.until(lambda told: (told["measured_mbps"] or 0.0) > BOUNDARY and told["active"] == "100mbps")
        made.links(THROTTLE)
        told = made.until(lambda told: told["active"] == "1mbps" and 0 < (told["measured_mbps"] or 0) < 3 * NARROW_MBPS)
        assert told["switches"] % 2 == 1
        made.links(PASS)
        told = made.until(lambda told: told["active"] == "100mbps")
        assert told["switches"] % 2 == 0
        assert name_of(made.answer().build) in members
