"""Requests that wait at the same time are answered in one round, each with its own part, deadline and caller."""

import contextlib
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Callable, Iterator, List, NamedTuple, Optional

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coformer_runtime.answer import Answer, Phases
from coformer_runtime.batching import ROUNDS, Batcher, joined
from coformer_runtime.bundle import open_bundle
from coformer_runtime.central import CalledOff, Central, Load, Unanswered
from coformer_runtime.central_options import CentralOptions, check_options
from coformer_runtime.client import Client
from coformer_runtime.errors import CoformerError
from coformer_runtime.fitting import fit
from coformer_runtime.front import open_front, refusal_code
from coformer_runtime.metrics import exposition
from coformer_runtime.observe import Observed
from tests.runtime import bundles
from tests.runtime.nodes import EVERYONE, serving, settled
from tests.runtime.test_front import call
from tests.runtime.text_bundles import answer_of, make_text_cluster, text_manifest, texts

LONG_S = 60.0  # what no test waits for


class Asked(NamedTuple):
    """One round as a central node sees it."""

    array: np.ndarray
    budget_s: float
    load: Load
    on_gone: Callable[[Callable[[], None]], bool]


class FakeCentral:
    """Answers with the first token of every sample, once it may."""

    def __init__(self, deadline_ms: int = 60000) -> None:
        self.manifest = text_manifest(0)
        self.options = CentralOptions((), deadline_ms)
        self.observed = Observed("1", bundles.DEVICES)
        self.rounds: List[Asked] = []
        self.may = threading.Event()
        self.called_off = threading.Event()
        self.error: Optional[Exception] = None

    def answer(self, array: np.ndarray, budget_s: float, on_gone: Any, load: Load) -> Answer:
        self.rounds.append(Asked(array, budget_s, load, on_gone))
        over = threading.Event()

        def call_off() -> None:
            self.called_off.set()
            over.set()

        if not on_gone(call_off):
            call_off()
        while not self.may.wait(0.005) and not over.is_set():
            continue
        if over.is_set():
            raise CalledOff("the caller has gone", "fake", "ask again")
        if self.error is not None:
            raise self.error
        phases = Phases(3.0, 2.0, 1.0, {"attic": 1.0}, {"attic": 0.5})
        return Answer(array[:, :1].astype(np.float32), ("attic",), True, {"hall": "late"}, 0.5, "b", phases)


@contextlib.contextmanager
def batching(central: Any, wait_s: float = LONG_S) -> Iterator[Callable[..., "Future[Answer]"]]:
    """Ask with `ask(ids, …)`; each request has a thread of its own, as in the server."""
    with Batcher(central, wait_s) as batcher, ThreadPoolExecutor(16) as pool:

        def ask(ids: np.ndarray, budget_s: Optional[float] = None, on_gone: Any = None) -> "Future[Answer]":
            return pool.submit(batcher.answer, fit(central.manifest, ids, False), budget_s, on_gone)

        try:
            yield ask
        finally:
            central.may.set()


def ids(first: int, tokens: int = 3, samples: int = 1) -> np.ndarray:
    """Texts whose first token tells them apart."""
    made = np.full((samples, tokens), 1, np.int32)
    made[:, 0] = np.arange(first, first + samples)
    return made


def test_requests_share_a_round_and_get_their_own_rows() -> None:
    central = FakeCentral()
    central.may.set()
    with batching(central) as ask:
        asked = [ask(ids(10)), ask(ids(20)), ask(ids(30, samples=2))]
        answers = [each.result(LONG_S) for each in asked]
    (only,) = central.rounds
    assert only.array.shape == (4, 4) and only.load == Load(3, 4)
    assert [each.logits.ravel().tolist() for each in answers] == [[10], [20], [30, 31]]
    for answer in answers:
        assert answer.degraded and answer.missing == {"hall": "late"} and answer.expected_accuracy == 0.5
        assert answer.shaped is not None and (answer.shaped.batch, answer.shaped.length) == (4, 4)
        waited_ms = answer.shaped.queue_ms
        assert answer.phases.total_ms == pytest.approx(3.0 + waited_ms)
        assert answer.phases.transfer_ms["attic"] == pytest.approx(0.5 + waited_ms)


def test_a_request_alone_waits_no_longer_than_it_was_told_to() -> None:
    central = FakeCentral()
    central.may.set()
    with batching(central, wait_s=0.01) as ask:
        answer = ask(ids(10)).result(LONG_S)
    assert answer.logits.tolist() == [[10]] and answer.shaped is not None
    assert answer.shaped.batch == 1 and answer.shaped.queue_ms >= 9


def test_lengths_do_not_mix() -> None:
    central = FakeCentral()
    central.may.set()
    with batching(central, wait_s=0.05) as ask:
        asked = [ask(ids(10, tokens)) for tokens in (3, 7, 4, 16)]
        assert all(each.result(LONG_S).logits.tolist() == [[10]] for each in asked)
    assert {each.array.shape[1]: each.load.requests for each in central.rounds if each.array.shape[1] > 4} == {
        8: 1,
        16: 1,
    }
    assert sum(each.load.requests for each in central.rounds if each.array.shape[1] == 4) == 2


def test_what_comes_while_the_members_compute_adds_up() -> None:
    central = FakeCentral()
    with batching(central, wait_s=0.0) as ask:
        first = []
        for number in range(ROUNDS):
            first.append(ask(ids(number)))
            settled(lambda number=number: len(central.rounds) == number + 1)
        later = [ask(ids(10 + number)) for number in range(3)]
        settled(lambda: central.observed.waiting() == 3)
        assert len(central.rounds) == ROUNDS
        central.may.set()
        for each in first + later:
            each.result(LONG_S)
    assert central.rounds[ROUNDS].array.shape == (4, 4) and central.rounds[ROUNDS].load == Load(3, 3)


def test_everybody_keeps_the_own_deadline() -> None:
    central = FakeCentral()
    with batching(central) as ask:
        patient = ask(ids(20, samples=2))
        settled(lambda: central.observed.waiting() == 1)
        hurried = ask(ids(10, samples=2), budget_s=0.5)
        with pytest.raises(Unanswered, match="late: no answer within 500 ms to the batch that it is part of") as caught:
            hurried.result(LONG_S)
        assert refusal_code(caught.value).name == "DEADLINE_EXCEEDED"
        assert central.rounds[0].budget_s > 30, "the round has the time of the one with the most"
        central.may.set()
        assert patient.result(LONG_S).logits.tolist() == [[20], [21]]
    assert not central.called_off.is_set()


def test_who_is_late_before_the_round_is_not_part_of_it() -> None:
    central = FakeCentral()
    with batching(central, wait_s=0.0) as ask:
        held = [ask(ids(number)) for number in range(1)]
        settled(lambda: len(central.rounds) == 1)
        held.append(ask(ids(1)))
        settled(lambda: len(central.rounds) == ROUNDS)
        with pytest.raises(Unanswered, match="no answer within 50 ms to the batch that it waits for"):
            ask(ids(10), budget_s=0.05).result(LONG_S)
        later = ask(ids(20))
        central.may.set()
        assert later.result(LONG_S).logits.tolist() == [[20]]
    assert [each.load.requests for each in central.rounds] == [1, 1, 1]


def test_a_round_is_called_off_when_all_callers_are_gone() -> None:
    central = FakeCentral()
    leave: List[Callable[[], None]] = []

    def on_gone(callback: Callable[[], None]) -> bool:
        leave.append(callback)
        return True

    with batching(central) as ask:
        asked = [ask(ids(10 * number, samples=2), None, on_gone) for number in (1, 2)]
        settled(lambda: len(central.rounds) == 1)
        leave[0]()
        assert not central.called_off.wait(0.05)
        leave[1]()
        assert central.called_off.wait(LONG_S)
        for each in asked:
            with pytest.raises(CalledOff):
                each.result(LONG_S)


def test_who_has_gone_already_takes_no_part() -> None:
    central = FakeCentral()
    central.may.set()
    with batching(central, wait_s=0.01) as ask:
        with pytest.raises(CalledOff):
            ask(ids(10), None, lambda callback: False).result(LONG_S)
        assert ask(ids(20)).result(LONG_S).logits.tolist() == [[20]]
    assert [each.load.requests for each in central.rounds] == [1]


def test_a_failure_is_everybodys() -> None:
    central = FakeCentral()
    central.error = Unanswered("all 3 members are needed", "central", "mend", "away")
    central.may.set()
    with batching(central) as ask:
        for each in [ask(ids(number)) for number in range(4)]:
            with pytest.raises(Unanswered, match="all 3 members are needed"):
                each.result(LONG_S)
    assert len(central.rounds) == 1


@given(st.lists(st.integers(1, 8), min_size=1, max_size=12))
def test_what_is_joined_fits_and_is_not_mostly_copies(samples: List[int]) -> None:
    sizes = [1, 2, 8]
    count = joined(samples, sizes)
    total = sum(samples[:count])
    assert 1 <= count <= len(samples) and total <= 8
    size = min(each for each in sizes if each >= total)
    assert count == 1 or 2 * total > size
    if sum(samples) <= 8 and 2 * sum(samples) > min(each for each in sizes if each >= sum(samples)):
        assert count == len(samples), "all that fill a batch by more than half go together"


@pytest.mark.parametrize(("samples", "count"), [([1], 1), ([1, 1, 1], 2), ([1, 1, 1, 1, 1], 5), ([3], 1), ([8, 1], 1)])
def test_examples_of_what_is_joined(samples: List[int], count: int) -> None:
    assert joined(samples, [1, 2, 8]) == count


@pytest.fixture(scope="module")
def text_dirs(tmp_path_factory: pytest.TempPathFactory) -> List[str]:
    return make_text_cluster(tmp_path_factory.mktemp("texts"))


@contextlib.contextmanager
def cluster(text_dirs: List[str], min_members: Optional[int] = None) -> Iterator[Any]:
    """A central node that batches, the third device missing where two suffice; yields its address and itself."""
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(serving(text_dirs[1]))]
        workers.append("127.0.0.1:9" if min_members == 2 else stack.enter_context(serving(text_dirs[2])))
        options = CentralOptions(tuple(workers), 5000, min_members, batch_wait_ms=50.0)
        central = stack.enter_context(Central(open_bundle(text_dirs[0]), options))
        settled(central.ready)
        batcher = stack.enter_context(Batcher(central, 0.05))
        server, address = open_front(central, "127.0.0.1:0", batcher=batcher)
        try:
            yield address, central
        finally:
            server.stop(0).wait()


@pytest.mark.parametrize("min_members", [None, 2])
def test_a_crowd_over_sockets(text_dirs: List[str], min_members: Optional[int]) -> None:
    """Everyone gets the answer to the own text, under the own id, by the members that were there."""
    members = EVERYONE if min_members is None else (0, 1)
    with cluster(text_dirs, min_members) as (address, central), Client(address) as client:
        crowd = [texts(1 + number % 3, seed=number, longest=4 + number % 9) for number in range(24)]
        with ThreadPoolExecutor(12) as pool:
            asked = [pool.submit(client.infer, each, None, "id {}".format(n)) for n, each in enumerate(crowd)]
            for each, answer in zip(crowd, (future.result(30) for future in asked)):
                np.testing.assert_allclose(answer.logits, answer_of(members, each), rtol=1e-4, atol=1e-4)
                assert answer.degraded is (min_members is not None)
        told = exposition(central.observed.families(central))
    counts = {line.split("{")[0]: float(line.split()[-1]) for line in told.splitlines() if line.startswith("nv_")}
    assert counts["nv_inference_request_success"] == 24
    assert counts["nv_inference_count"] == sum(len(each) for each in crowd)
    assert counts["nv_inference_exec_count"] <= 24
    assert "coformer_batch_samples_count {:.0f}".format(counts["nv_inference_exec_count"]) in told
    assert counts["nv_inference_queue_duration_us"] > 0
    assert counts["nv_inference_pending_request_count"] == 0


def test_tritons_configuration_says_so(text_dirs: List[str]) -> None:
    with cluster(text_dirs) as (address, _):
        config = call(address, "ModelConfig", name="coformer").config
    assert config.max_batch_size == 4 and list(config.dynamic_batching.preferred_batch_size) == [1, 2, 4]
    assert config.dynamic_batching.max_queue_delay_microseconds == 50000


@pytest.mark.parametrize(
    ("batches", "wait_ms", "told"),
    [
        ((1,), 2.0, "--batch-wait-ms is for bundles with several batch sizes, this one takes a sample at a time"),
        ((1, 4), -1.0, "--batch-wait-ms is -1, --deadline-ms 1000"),
        ((1, 4), 1000.0, "--batch-wait-ms is 1000, --deadline-ms 1000"),
    ],
)
def test_waits_that_are_refused(batches: Any, wait_ms: float, told: str) -> None:
    options = CentralOptions(("127.0.0.1:1", "127.0.0.1:2"), batch_wait_ms=wait_ms)
    with pytest.raises(CoformerError, match=told):
        check_options(text_manifest(0, batches=batches), options)


def test_threads_end_with_it() -> None:
    before = threading.active_count()
    central = FakeCentral()
    central.may.set()
    with batching(central, wait_s=0.0) as ask:
        ask(ids(1)).result(LONG_S)
    until = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < until:
        time.sleep(0.01)
    assert threading.active_count() <= before
