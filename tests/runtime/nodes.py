"""Workers and central nodes inside the test's process, over real sockets."""

import contextlib
import time
from typing import Callable, Iterator, List, Optional

from coformer_runtime.bundle import open_bundle
from coformer_runtime.central import Central
from coformer_runtime.central_options import CentralOptions
from coformer_runtime.worker import Worker
from tests.runtime import bundles

PIXELS = bundles.golden_pixels()[:1]
EVERYONE = (0, 1, 2)


@contextlib.contextmanager
def serving(bundle_dir: str, listen: str = "127.0.0.1:0") -> Iterator[str]:
    with Worker(open_bundle(bundle_dir), listen, 1) as worker:
        yield worker.address


@contextlib.contextmanager
def gathering(
    bundle_dir: str, workers: List[str], wait: bool = True, deadline_ms: int = 2000, min_members: Optional[int] = None
) -> Iterator[Central]:
    with Central(open_bundle(bundle_dir), CentralOptions(tuple(workers), deadline_ms, min_members)) as central:
        if wait:
            settled(central.ready)
        yield central


def settled(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "not settled within {:g} s".format(timeout_s)
        time.sleep(0.01)
