"""A worker behind a network of its own: narrow as a bad radio link (tc tbf), and with its cable pulled."""

import os
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Iterator, List, NamedTuple

import numpy as np
import pytest

from coformer_runtime import breaker
from coformer_runtime.bundle import open_bundle
from coformer_runtime.central import Central, Unanswered
from coformer_runtime.central_options import CentralOptions
from coformer_runtime.security import Security
from tests.runtime import bundles
from tests.runtime.nodes import EVERYONE, serving, settled

pytestmark = pytest.mark.slow
PHOTO = (1, 3, 224, 224)  # 150 kB, 0.6 s at 2 Mbit/s
DEADLINE_MS, SLACK_S = 400, 1.0


class Site(NamedTuple):
    """A network namespace with one veth pair; `near` is this side's interface, `far` the address of the other."""

    name: str
    near: str
    far: str


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, stderr=subprocess.PIPE)


@pytest.fixture
def site() -> Iterator[Site]:
    if os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("tc") is None:
        pytest.skip("needs root, ip and tc")
    tag = uuid.uuid4().hex[:6]
    made = Site("cf" + tag, "cf" + tag + "a", "10.231.{}.2".format(int(tag[:2], 16)))
    try:
        ip("netns", "add", made.name)
    except subprocess.CalledProcessError as error:
        pytest.skip("no network namespaces here: {}".format(error.stderr.decode()))
    try:
        ip("link", "add", made.near, "type", "veth", "peer", "name", "inside", "netns", made.name)
        ip("addr", "add", made.far[:-1] + "1/24", "dev", made.near)
        ip("link", "set", made.near, "up")
        ip("-n", made.name, "addr", "add", made.far + "/24", "dev", "inside")
        ip("-n", made.name, "link", "set", "inside", "up")
        ip("-n", made.name, "link", "set", "lo", "up")
        yield made
    finally:
        ip("netns", "del", made.name)


@pytest.fixture
def central(
    request: pytest.FixtureRequest, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Central]:
    """A central node and hall here, desk in the namespace; the parameter is the least number of members."""
    monkeypatch.setattr(breaker, "OPEN_S", 0.5)
    dirs = bundles.make_cluster(tmp_path, pixels=PHOTO)
    words = ["ip", "netns", "exec", site.name, sys.executable, "-m", "coformer_runtime", "serve", dirs[2],
             "--listen", site.far + ":0", "--insecure", "--allow-root", "--exit-with-stdin"]  # fmt: skip
    source = str(Path(sys.modules["coformer_runtime"].__file__ or "").parents[1])
    environment = dict(os.environ, PYTHONPATH=source)
    worker = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    assert worker.stdin is not None and worker.stdout is not None
    with worker, serving(dirs[1]) as hall:
        desk = worker.stdout.readline().decode().split()[1]
        options = CentralOptions((hall, "desk=" + desk), DEADLINE_MS, request.param, 1, Security(insecure=True))
        with Central(open_bundle(dirs[0]), options) as made:
            settled(lambda: made.missing() == {})
            yield made
        worker.stdin.close()


@pytest.mark.parametrize("central", [2], indirect=True)
def test_narrow_link_and_pulled_cable(site: Site, central: Central) -> None:
    photo = bundles.golden_pixels(PHOTO)[:1]

    def members() -> List[str]:
        return list(central.answer(photo).members)

    def without_desk() -> None:
        for _ in range(4):
            started = time.monotonic()
            answer = central.answer(photo)
            assert answer.members == ("attic", "hall") and list(answer.missing) == ["desk"]
            np.testing.assert_allclose(answer.logits, bundles.answer_of((0, 1), photo), rtol=1e-3, atol=1e-3)
            assert time.monotonic() - started < DEADLINE_MS / 1e3 + SLACK_S

    settled(lambda: members() == list(bundles.DEVICES))
    tbf = ["root", "tbf", "rate", "2mbit", "burst", "4kb", "latency", "2s"]
    subprocess.run(["tc", "qdisc", "add", "dev", site.near, *tbf], check=True)
    without_desk()
    subprocess.run(["tc", "qdisc", "del", "dev", site.near, "root"], check=True)
    settled(lambda: members() == list(bundles.DEVICES), 20)
    ip("link", "set", site.near, "down")
    without_desk()
    ip("link", "set", site.near, "up")
    settled(lambda: members() == list(bundles.DEVICES), 40)
    assert not central.missing()


@pytest.mark.parametrize("central", [None], indirect=True)
def test_all_are_needed_and_the_cable_is_pulled(site: Site, central: Central) -> None:
    photo = bundles.golden_pixels(PHOTO)[:1]
    settled(lambda: len(central.missing()) == 0)
    np.testing.assert_allclose(central.answer(photo).logits, bundles.answer_of(EVERYONE, photo), rtol=1e-3, atol=1e-3)
    ip("link", "set", site.near, "down")
    for _ in range(4):
        started = time.monotonic()
        with pytest.raises(Unanswered, match=r"all 3 members are needed; missing: desk \("):
            central.answer(photo)
        assert time.monotonic() - started < DEADLINE_MS / 1e3 + SLACK_S
