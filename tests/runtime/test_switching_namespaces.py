"""What is measured on a link that the kernel makes narrow (tc tbf), and that the central node follows it."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Iterator

import numpy as np
import pytest

from coformer_runtime.alternatives import open_held
from coformer_runtime.central_options import CentralOptions
from coformer_runtime.link_rate import Rate
from coformer_runtime.security import Security
from coformer_runtime.switching import Switching
from tests.runtime import bundles
from tests.runtime.alternatives import answer_of, make_alternatives, name_of
from tests.runtime.nodes import settled
from tests.runtime.test_namespaces import PHOTO, Site, site

__all__ = ["site"]

pytestmark = pytest.mark.slow
MEMBERS = {"1mbps": (0,), "100mbps": (0, 2)}
RATE_MBPS = 2.0
PATIENCE_S = 90.0


@contextlib.contextmanager
def far_away(site: Site, folder: str) -> Iterator[str]:
    """A worker in the namespace; the address that it listens at."""
    words = ["ip", "netns", "exec", site.name, sys.executable, "-m", "coformer_runtime", "serve", folder,
             "--listen", site.far + ":0", "--insecure", "--allow-root", "--exit-with-stdin"]  # fmt: skip
    source = str(Path(sys.modules["coformer_runtime"].__file__ or "").parents[1])
    environment = dict(os.environ, PYTHONPATH=source)
    worker = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    assert worker.stdin is not None and worker.stdout is not None
    with worker:
        yield worker.stdout.readline().decode().split()[1]
        worker.stdin.close()


def test_the_kernels_rate_is_measured_and_followed(site: Site, tmp_path: Path) -> None:
    photo = bundles.golden_pixels(PHOTO)[:1]
    attic, desk = make_alternatives(tmp_path, MEMBERS, PHOTO)
    with far_away(site, desk) as address:
        options = CentralOptions(("desk=" + address,), 10000, None, 1, Security(insecure=True))
        with Switching(open_held(attic), options) as node:
            settled(lambda: not node.missing())

            def rate() -> Rate:
                answer = node.answer(photo)
                wanted = answer_of(name_of(answer.build), photo, MEMBERS)
                np.testing.assert_allclose(answer.logits, wanted, rtol=1e-3, atol=1e-3)
                return node.rate.rate() or Rate(0.0, float("inf"))

            settled(lambda: rate().low > 20.0, PATIENCE_S)
            tbf = ["root", "tbf", "rate", "{:g}mbit".format(RATE_MBPS), "burst", "4kb", "latency", "4s"]
            subprocess.run(["tc", "qdisc", "add", "dev", site.near, *tbf], check=True)
            # Headers of TCP and IP are the kernel's bytes and not ours; a busy machine makes a link look slower only.
            settled(lambda: 0.4 * RATE_MBPS < rate().low < 1.05 * RATE_MBPS and node.active == "1mbps", PATIENCE_S)
            subprocess.run(["tc", "qdisc", "del", "dev", site.near, "root"], check=True)
            settled(lambda: rate().low > 20.0 and node.active == "100mbps", PATIENCE_S)
            assert node.switches % 2 == 0
