"""A central node with alternatives: which one answers, when it changes, and that answers are right all the while."""

import contextlib
import json
import threading
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import numpy as np
import pytest

from coformer_runtime import exchange, wire
from coformer_runtime.alternatives import open_held
from coformer_runtime.answer import Answer
from coformer_runtime.bundle import open_bundle
from coformer_runtime.central_options import CentralOptions
from coformer_runtime.client import Client
from coformer_runtime.front import open_front
from coformer_runtime.hysteresis import DWELL_S
from coformer_runtime.link_rate import LEAST, WINDOW
from coformer_runtime.metrics import exposition
from coformer_runtime.status import status_text
from coformer_runtime.switching import PROBE_EVERY_S, Switching
from coformer_runtime.worker import Worker
from tests.runtime import bundles
from tests.runtime.alternatives import ALONE, MEMBERS, answer_of, build_of, make_alternatives, name_of
from tests.runtime.nodes import PIXELS, gathering, serving, settled
from tests.runtime.test_link_rate import Clock
from tests.runtime.test_metrics import parsed


@contextlib.contextmanager
def holding(folder: str) -> Iterator[str]:
    first, *others = open_held(folder).bundles.values()
    with Worker(first, "127.0.0.1:0", 1, others=others) as worker:
        yield worker.address


@contextlib.contextmanager
def switching(folders: List[str], clock: Clock, min_members: Any = None) -> Iterator[Switching]:
    attic, hall, desk = folders
    with holding(hall) as at_hall, holding(desk) as at_desk:
        options = CentralOptions(("hall=" + at_hall, "desk=" + at_desk), 2000, min_members)
        with Switching(open_held(attic), options, clock) as made:
            settled(lambda: all(not each["missing"] for each in made.status()["alternatives"]["held"]))
            yield made


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> List[str]:
    """Attic, hall and desk; not to be changed."""
    return make_alternatives(tmp_path_factory.mktemp("alternatives"))


def links_at(node: Switching, clock: Clock, mbps: float) -> None:
    """Let the links be measured at this rate, long enough to be believed."""
    for _ in range(2):
        clock.now += DWELL_S
        for _ in range(WINDOW):
            node.rate.note(100_000_000, 800 / mbps)  # no delay of this machine counts beside that
        node.serving()


def check(answer: Answer, name: str, members: Dict[str, Tuple[int, ...]] = MEMBERS) -> None:
    assert answer.build == build_of(name)
    assert answer.members == tuple(bundles.DEVICES[member] for member in members[name])
    np.testing.assert_allclose(answer.logits, answer_of(name, PIXELS, members), rtol=1e-4, atol=1e-4)


def test_the_rate_decides_and_the_log_says_so(folders: List[str], capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with switching(folders, clock) as node:
        check(node.answer(PIXELS), "100mbps")
        links_at(node, clock, 2.0)
        assert (node.active, node.switches) == ("1mbps", 1)
        check(node.answer(PIXELS), "1mbps")
        links_at(node, clock, 21.0)  # beyond the boundary, not beyond the margin
        check(node.answer(PIXELS), "1mbps")
        links_at(node, clock, 300.0)
        check(node.answer(PIXELS), "100mbps")
        assert node.switches == 2
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    changes = [line for line in lines if line["event"] == "alternative"]
    assert [(line["from"], line["to"], line["reason"]) for line in changes] == [
        ("100mbps", "1mbps", "rate of the links"),
        ("1mbps", "100mbps", "rate of the links"),
    ]
    assert changes[0]["mbps"] == pytest.approx(2.0, rel=0.05) and changes[0]["build"] == build_of("1mbps")[:12]


def test_a_request_ends_where_it_began(folders: List[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock, began, go_on = Clock(), threading.Event(), threading.Event()
    run = exchange.Exchange._run

    def held_up(self: Any, frame: wire.Frame, waited_s: float) -> bytes:
        if self._manifest.device == "hall":
            began.set()
            go_on.wait(10)
        return run(self, frame, waited_s)

    monkeypatch.setattr(exchange.Exchange, "_run", held_up)
    with switching(folders, clock) as node:
        answers: List[Answer] = []
        asking = threading.Thread(target=lambda: answers.append(node.answer(PIXELS)))
        asking.start()
        assert began.wait(10)
        links_at(node, clock, 2.0)
        check(node.answer(PIXELS), "1mbps")
        go_on.set()
        asking.join(10)
        check(answers[0], "100mbps")


def test_clients_see_which_one_answered_and_may_name_one(folders: List[str]) -> None:
    clock = Clock()
    with switching(folders, clock) as node:
        server, address = open_front(node, "127.0.0.1:0")
        with Client(address) as client:
            check(client.infer(PIXELS), "100mbps")
            links_at(node, clock, 2.0)
            check(client.infer(PIXELS), "1mbps")
        assert node.serving(build_of("100mbps")[:12]).manifest.build == build_of("100mbps")
        assert node.versions() == (build_of("1mbps")[:12], build_of("100mbps")[:12])
        server.stop(0).wait()


def test_metrics_and_status(folders: List[str]) -> None:
    clock = Clock()
    with switching(folders, clock) as node:
        node.answer(PIXELS)
        before = parsed(exposition(node.families()))
        assert "coformer_link_mbps" not in before
        links_at(node, clock, 2.0)
        node.answer(PIXELS)
        values = parsed(exposition(node.families()))
        assert values['coformer_alternative_active{alternative="1mbps"}'] == 1
        assert values['coformer_alternative_active{alternative="100mbps"}'] == 0
        assert values['coformer_alternative_whole{alternative="100mbps"}'] == 1
        assert values["coformer_alternative_switches_total"] == 1
        assert values["coformer_link_mbps"] == pytest.approx(2.0, rel=0.05)
        for name in MEMBERS:
            key = 'nv_inference_request_success{{model="coformer",version="{}"}}'.format(build_of(name)[:12])
            assert values[key] == 1
        text = status_text(json.loads(json.dumps(node.status()))).splitlines()
        assert text[0].startswith("ready: central node 'attic', build " + build_of("1mbps")[:12])
        assert "alternative 1mbps, changed 1 times; links measured at 2 Mbit/s or more" in text
        words = [" ".join(line.split()) for line in text]
        assert "1mbps from 0 to 20 Mbit/s attic + desk" in words
        assert "100mbps from 20 Mbit/s attic + hall + desk" in words


def test_only_what_every_needed_board_holds(tmp_path: Path) -> None:
    """The desk holds the fast alternative only: the slow one is never changed to."""
    folders = make_alternatives(tmp_path)
    slow = tmp_path / "desk" / "1mbps"
    slow.rename(tmp_path / "away")
    clock = Clock()
    attic, hall, desk = folders
    with holding(hall) as at_hall, holding(desk) as at_desk:
        options = CentralOptions(("hall=" + at_hall, "desk=" + at_desk), 2000)
        with Switching(open_held(attic), options, clock) as node:
            settled(node.serving().ready)
            links_at(node, clock, 2.0)
            check(node.answer(PIXELS), "100mbps")
            held = {each["name"]: each["missing"] for each in node.status()["alternatives"]["held"]}
            assert held["100mbps"] == {} and held["1mbps"]["desk"].startswith("another build: ")


def test_members_of_another_build_are_refused(folders: List[str], cluster_dirs: List[str]) -> None:
    attic, hall, desk = folders
    with serving(cluster_dirs[1]) as stranger, holding(desk) as at_desk:
        options = CentralOptions(("hall=" + stranger, "desk=" + at_desk), 500)
        with Switching(open_held(attic), options, Clock()) as node:
            settled(lambda: not node._centrals["1mbps"].missing())
            assert node._centrals["100mbps"].missing()["hall"].startswith("another build: ")
            check(node.answer(PIXELS), "1mbps")  # the one that can answer
    # and alternatives are strangers to other builds
    with holding(hall) as at_hall, holding(desk) as at_desk, gathering(
        cluster_dirs[0], [at_hall, at_desk], wait=False
    ) as central:
        settled(lambda: all("another build" in why for why in central.missing().values()))


def test_a_lost_member_is_done_without_where_an_alternative_does(folders: List[str]) -> None:
    clock, (attic, hall, desk) = Clock(), folders
    with holding(desk) as at_desk, contextlib.ExitStack() as stack:
        at_hall = stack.enter_context(holding(hall))
        options = CentralOptions(("hall=" + at_hall, "desk=" + at_desk), 500)
        with Switching(open_held(attic), options, clock) as node:
            settled(lambda: not node.missing())
            check(node.answer(PIXELS), "100mbps")
            stack.close()
            settled(lambda: "hall" in node._centrals["100mbps"].missing())
            check(node.answer(PIXELS), "1mbps")
            with serving(str(Path(hall) / "100mbps"), at_hall):
                settled(lambda: not node._centrals["100mbps"].missing())
                check(node.answer(PIXELS), "100mbps")


def test_fewer_members_are_enough_where_that_was_said(folders: List[str]) -> None:
    with switching(folders, Clock(), min_members=3) as node:
        assert [central.options.min_members for central in node._centrals.values()] == [2, 3]
        check(node.answer(PIXELS), "100mbps")


def test_links_are_measured_where_no_request_uses_them(tmp_path: Path) -> None:
    """The central device alone answers on a slow link: messages of an input's size find out that it is fast again."""
    clock = Clock()
    with switching(make_alternatives(tmp_path, ALONE, (1, 3, 64, 64), start="1mbps"), clock) as node:
        photo = bundles.golden_pixels((1, 3, 64, 64))[:1]
        answer = node.answer(photo)
        assert name_of(answer.build) == "1mbps" and answer.members == ("attic",)
        samples = node.rate._samples
        for count in range(1, LEAST + 1):
            clock.now += PROBE_EVERY_S
            node.answer(photo)
            settled(lambda: len(samples) == count)  # noqa: B023
        assert node.rate.rate() is not None


def test_requests_are_measured(folders: List[str]) -> None:
    with switching(folders, Clock()) as node:
        for _ in range(LEAST):
            node.answer(PIXELS)
        settled(lambda: node.rate.rate() is not None)
        found = node.rate.rate()
        assert found is not None and 0 < found.low <= found.high


def test_one_folder_of_an_alternative_is_a_bundle_as_any(folders: List[str]) -> None:
    assert open_bundle(folders[0] + "/1mbps").manifest.build == build_of("1mbps")
