"""One round over real sockets: answers, and every way in which a member can fail."""

import contextlib
import re
import time
from pathlib import Path
from typing import Any, Iterator, List

import grpc
import numpy as np
import pytest

from coformer_runtime import breaker, exchange, wire
from coformer_runtime.answer import answer_from_parameters, parameters_from_answer
from coformer_runtime.bundle import open_bundle
from coformer_runtime.central import Central, Unanswered
from coformer_runtime.listen import open_server
from coformer_runtime.security import LOOPBACK
from tests.runtime import bundles
from tests.runtime.nodes import EVERYONE, PIXELS, gathering, serving, settled


def unanswered(central: Central) -> Unanswered:
    with pytest.raises(Unanswered) as caught:
        central.answer(PIXELS)
    return caught.value


def test_answer_of_all_members(cluster_dirs: List[str]) -> None:
    with serving(cluster_dirs[1]) as hall, serving(cluster_dirs[2]) as desk, gathering(
        cluster_dirs[0], [hall, desk]
    ) as central:
        for pixels in (bundles.golden_pixels()[case : case + 1] for case in range(bundles.CASES)):
            answer = central.answer(pixels)
            np.testing.assert_allclose(answer.logits, bundles.answer_of(EVERYONE, pixels), rtol=1e-4, atol=1e-4)
    assert answer.members == bundles.DEVICES
    assert not answer.degraded and answer.missing == {}
    assert answer.expected_accuracy == pytest.approx(0.93)
    assert answer.build == "b" * 64
    phases = answer.phases
    assert set(phases.compute_ms) == set(phases.transfer_ms) == set(bundles.DEVICES)
    assert phases.total_ms == pytest.approx(phases.gather_ms + phases.aggregate_ms, abs=0.01)
    assert all(0 <= ms <= phases.gather_ms for ms in [*phases.compute_ms.values(), *phases.transfer_ms.values()])


def test_answer_survives_its_parameters(cluster_dirs: List[str]) -> None:
    with gathering(cluster_dirs[0], [], min_members=1) as central:
        answer = central.answer(PIXELS)
    again = answer_from_parameters(answer.logits, parameters_from_answer(answer))
    assert again == answer


def test_worker_down_then_up(cluster_dirs: List[str]) -> None:
    with serving(cluster_dirs[1]) as hall:
        with serving(cluster_dirs[2]) as desk:
            pass
        with gathering(cluster_dirs[0], ["hall=" + hall, "desk=" + desk], wait=False) as central:
            settled(lambda: "hall" not in central.missing() and "(unavailable)" in central.missing()["desk"])
            started = time.monotonic()
            error = unanswered(central)
            assert time.monotonic() - started < 0.5
            assert error.what.startswith("all 3 members are needed; missing: desk (unreachable: {} (".format(desk))
            assert "hall" not in error.what
            assert error.where == "central node 'attic'"
            assert error.mend.endswith("or start the central node with --min-members to answer without them")
            assert error.cause == "away" and not central.ready()
            with serving(cluster_dirs[2], desk):
                settled(central.ready)
                assert central.answer(PIXELS).members == bundles.DEVICES
            settled(lambda: not central.ready())
            assert "desk (unreachable: " in unanswered(central).what


def test_worker_of_another_build(cluster_dirs: List[str], tmp_path: Path) -> None:
    other = bundles.make_bundle(tmp_path, 2, build="d" * 64)
    with serving(cluster_dirs[1]) as hall, serving(other) as desk, gathering(
        cluster_dirs[0], [hall, desk], wait=False
    ) as central:
        settled(lambda: "another build" in str(central.missing()) and "hall" not in central.missing())
        error = unanswered(central)
    assert ("desk (another build: {} serves 'desk' of build dddddddddddd..., this cluster is build bbbbbbbbbbbb...)"
            .format(desk)) in error.what  # fmt: skip


def test_wrong_member(cluster_dirs: List[str]) -> None:
    with serving(cluster_dirs[1]) as hall, serving(cluster_dirs[2]) as desk, gathering(
        cluster_dirs[0], ["desk=" + hall, "hall=" + desk], wait=False
    ) as central:
        settled(lambda: str(central.missing()).count("another member") == 2)
        assert "another member: {} serves 'hall', not 'desk'".format(hall) in unanswered(central).what


def test_own_member_and_a_second_one_are_refused(cluster_dirs: List[str]) -> None:
    with serving(cluster_dirs[0]) as attic, serving(cluster_dirs[1]) as hall, serving(
        cluster_dirs[1]
    ) as again, gathering(cluster_dirs[0], [hall, again, attic], wait=False) as central:
        settled(lambda: "already" in str(central.missing()) and "itself" in str(central.missing()))
        what = unanswered(central).what
    assert "{} serves 'attic', which is this node itself".format(attic) in what
    assert "serves 'hall', as" in what and "hall (" not in what


def test_not_finite_features(cluster_dirs: List[str], tmp_path: Path) -> None:
    weight = bundles.member_weight(2)
    weight[0, 1] = np.nan
    broken = bundles.make_bundle(tmp_path, 2, graph=bundles.member_graph(2, weight=weight))
    with serving(cluster_dirs[1]) as hall, serving(broken) as desk:
        with gathering(cluster_dirs[0], [hall, desk]) as central:
            assert "missing: desk (1 of its 2 features are not finite)" in unanswered(central).what
        with gathering(cluster_dirs[0], [hall, desk], min_members=2) as central:
            settled(lambda: not central.missing())
            answer = central.answer(PIXELS)
    assert answer.members == ("attic", "hall") and answer.degraded
    assert answer.missing == {"desk": "1 of its 2 features are not finite"}
    assert answer.expected_accuracy == pytest.approx(0.92)
    np.testing.assert_allclose(answer.logits, bundles.answer_of((0, 1), PIXELS), rtol=1e-4, atol=1e-4)


def test_late_member(cluster_dirs: List[str], tmp_path: Path) -> None:
    slow = bundles.make_bundle(tmp_path, 2, graph=bundles.member_graph(2, slow=3000))
    with serving(cluster_dirs[1]) as hall, serving(slow) as desk:
        with gathering(cluster_dirs[0], [hall, desk], deadline_ms=100) as central:
            started = time.monotonic()
            error = unanswered(central)
            assert 0.1 <= time.monotonic() - started < 0.4
            assert error.cause == "late"
            assert re.search(r"missing: desk \(late: no answer within (99|100) ms\)", error.what)
            again = unanswered(central)
            assert again.cause == "late" and "desk (late: " in again.what
        with gathering(cluster_dirs[0], [hall, desk], deadline_ms=100, min_members=1) as central:
            settled(lambda: not central.missing())
            assert central.answer(PIXELS).members == ("attic", "hall")


def test_no_address_for_a_member(cluster_dirs: List[str]) -> None:
    with serving(cluster_dirs[1]) as hall, gathering(cluster_dirs[0], [hall], min_members=2) as central:
        assert central.missing() == {"desk": "no worker's address was given for it"}
        assert central.answer(PIXELS).members == ("attic", "hall")


def test_a_server_that_is_no_worker(cluster_dirs: List[str]) -> None:
    def babble(frames: Any, context: Any) -> Iterator[bytes]:
        yield b"hello"

    methods = {wire.METHOD_NAME: grpc.stream_stream_rpc_method_handler(babble)}
    server, address = open_server({wire.SERVICE: methods}, "127.0.0.1:0", LOOPBACK, 4)
    with gathering(cluster_dirs[0], ["hall=" + address, "desk=127.0.0.1:9"], wait=False) as central:
        settled(lambda: "does not speak" in central.missing()["hall"])
        assert "(malformed frame: 5 bytes, the header alone has 96)" in central.missing()["hall"]
    server.stop(0).wait()


def test_breaker_spares_a_slow_member_and_lets_it_back(
    cluster_dirs: List[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three times late: then answers come at once without it; on probation it is asked but not waited for."""
    monkeypatch.setattr(breaker, "OPEN_S", 0.5)
    infer, slow = exchange.Exchange._run, [True]

    def run(self: Any, frame: wire.Frame, waited_s: float) -> bytes:
        if slow[0] and self._manifest.device == "desk":
            time.sleep(0.15)
        return infer(self, frame, waited_s)

    monkeypatch.setattr(exchange.Exchange, "_run", run)
    with serving(cluster_dirs[1]) as hall, serving(cluster_dirs[2]) as desk, gathering(
        cluster_dirs[0], [hall, desk], deadline_ms=100, min_members=2
    ) as central:
        settled(lambda: len(central.missing()) == 0)
        for _ in range(3):
            assert central.answer(PIXELS).missing["desk"].startswith("late: ")
            time.sleep(0.2)
        assert central.breaker_states()["desk"] == "open"
        assert central.missing() == {"desk": "not asked: it failed 3 times in a row; it is asked again in 0 s"}
        started = time.monotonic()
        answer = central.answer(PIXELS)
        assert time.monotonic() - started < 0.09 and answer.members == ("attic", "hall")
        slow[0] = False
        settled(lambda: central.breaker_states()["desk"] == "half-open")
        probed = central.answer(PIXELS)
        assert probed.members == ("attic", "hall") or probed.members == bundles.DEVICES
        settled(lambda: central.answer(PIXELS).members == bundles.DEVICES, 3)
        assert central.breaker_states()["desk"] == "closed"


def test_callers_in_a_hurry_open_no_breaker(cluster_dirs: List[str]) -> None:
    with serving(cluster_dirs[1]) as hall, serving(cluster_dirs[2]) as desk, gathering(
        cluster_dirs[0], [hall, desk]
    ) as central:
        for _ in range(20):
            with contextlib.suppress(Unanswered):
                central.answer(PIXELS, budget_s=0.0)
        time.sleep(0.1)
        assert central.answer(PIXELS).members == bundles.DEVICES
        assert set(central.breaker_states().values()) == {"closed"}


def test_error_names_only_who_failed(cluster_dirs: List[str], tmp_path: Path) -> None:
    """One member's features are broken at once, another is slow: the slow one is not waited for, nor blamed."""
    slow = bundles.make_bundle(tmp_path / "slow", 1, graph=bundles.member_graph(1, slow=3000))

    def leave(frames: Iterator[bytes], context: Any) -> Iterator[bytes]:
        next(frames)
        yield wire.encode_frame(wire.hello_frame(open_bundle(cluster_dirs[2]).manifest, "0"))
        next(frames)
        context.abort(grpc.StatusCode.INTERNAL, "gone")

    methods = {wire.METHOD_NAME: grpc.stream_stream_rpc_method_handler(leave)}
    server, desk = open_server({wire.SERVICE: methods}, "127.0.0.1:0", LOOPBACK, 4)
    with serving(slow) as hall, gathering(cluster_dirs[0], [hall, desk]) as central:
        started = time.monotonic()
        error = unanswered(central)
        assert time.monotonic() - started < 0.5
    assert "desk (unreachable: {} (internal))".format(desk) in error.what and "hall (" not in error.what
    assert error.cause == "away"
    server.stop(0).wait()
