"""Clients that send their input to every device: features are joined by the id, whatever arrives first."""

import contextlib
import threading
import time
from typing import Any, Iterator, List, Tuple

import grpc
import numpy as np
import pytest

from coformer_runtime import wire
from coformer_runtime.broadcast import MAX_OPEN, Broadcasts
from coformer_runtime.broadcast_client import BroadcastClient
from coformer_runtime.bundle import open_bundle
from coformer_runtime.central import Central
from coformer_runtime.central_options import CentralOptions
from coformer_runtime.client import Client
from coformer_runtime.cluster import LocalCluster
from coformer_runtime.errors import CheckFailed, CoformerError
from coformer_runtime.front import broadcast_of, open_front
from coformer_runtime.members import Reply
from coformer_runtime.oip import messages
from coformer_runtime.security import LOOPBACK
from coformer_runtime.worker import Worker
from tests.runtime import bundles
from tests.runtime.nodes import EVERYONE, PIXELS, settled


@contextlib.contextmanager
def broadcasting(
    dirs: List[str], min_members: Any = None, deadline_ms: int = 5000, takes: bool = True
) -> Iterator[Tuple[str, List[str]]]:
    """A cluster in this process; the address of the central node and those of the workers."""
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(Worker(open_bundle(path), "127.0.0.1:0", 1, LOOPBACK, True)).address
            for path in dirs[1:]
        ]
        options = CentralOptions(tuple(workers), deadline_ms, min_members, broadcast=takes)
        central = stack.enter_context(Central(open_bundle(dirs[0]), options))
        settled(lambda: not central.missing())
        server, address = open_front(central, "127.0.0.1:0")
        stack.callback(lambda: server.stop(0).wait())
        yield address, workers


def submit(address: str, data: bytes) -> str:
    """What a worker says to a frame: "" or the status and its words."""
    with grpc.insecure_channel(address) as channel:
        try:
            assert channel.unary_unary(wire.SUBMIT)(data, timeout=10) == b""
        except grpc.RpcError as error:
            return "{}: {}".format(error.code().name, error.details())
    return ""


def frame(request_id: int, **changes: Any) -> bytes:
    made = wire.tensor_frame(wire.REQUEST, request_id, wire.ANY_BUILD, PIXELS, 5000)
    return wire.encode_frame(made._replace(**changes))


def test_every_device_gets_the_input_from_the_client(cluster_dirs: List[str]) -> None:
    with broadcasting(cluster_dirs) as (address, workers), BroadcastClient(address, workers) as client:
        for number in range(20):
            array = np.full_like(PIXELS, number)
            answer = client.infer(array, request_id=str(number))
            assert answer.members == bundles.DEVICES and not answer.degraded
            np.testing.assert_allclose(answer.logits, bundles.answer_of(EVERYONE, array), rtol=1e-4, atol=1e-4)
        with Client(address) as plain:  # the same cluster forwards what it gets without an id
            np.testing.assert_allclose(
                plain.infer(PIXELS).logits, bundles.answer_of(EVERYONE, PIXELS), rtol=1e-4, atol=1e-4
            )


@pytest.mark.slow
def test_a_worker_that_got_no_input_is_missing(cluster_dirs: List[str]) -> None:
    with broadcasting(cluster_dirs, 2, 1500) as (address, workers), BroadcastClient(address, workers[:1]) as client:
        answer = client.infer(PIXELS)
    assert answer.members == ("attic", "hall") and answer.missing["desk"].startswith("late: no answer within")
    with broadcasting(cluster_dirs, None, 1500) as (address, workers), BroadcastClient(
        address, workers[:1]
    ) as client, pytest.raises(CheckFailed, match=r"all 3 members are needed; missing: desk \(late: no answer within"):
        client.infer(PIXELS)


@pytest.mark.slow
def test_the_deadline_counts_from_the_first_arrival(cluster_dirs: List[str]) -> None:
    """Features that came long before the client's request have used its time up."""
    with broadcasting(cluster_dirs, 2, 1500) as (address, workers), BroadcastClient(address, workers) as client:
        client.infer(PIXELS)
        assert submit(workers[0], frame(wire.BROADCAST | 5)) == ""
        time.sleep(0.8)
        started = time.monotonic()
        answer = client._infer(PIXELS, None, "", {"broadcast": 5})
        waited_ms = (time.monotonic() - started) * 1e3
    assert answer.members == ("attic", "hall")
    assert answer.phases.total_ms > max(1400.0, waited_ms + 700.0)


def test_refusals_are_told(cluster_dirs: List[str]) -> None:
    with broadcasting(cluster_dirs, takes=False) as (address, workers):
        with BroadcastClient(address, workers) as client, pytest.raises(
            CoformerError, match="inputs are forwarded by this node, not sent by clients"
        ):
            client.infer(PIXELS)
        assert submit(workers[0], b"junk").startswith("INVALID_ARGUMENT: device edge: malformed frame: 4 bytes")
        assert submit(workers[0], frame(5)) == "INVALID_ARGUMENT: a request with an id of a client was due"
        assert submit(workers[0], frame(wire.BROADCAST | 5, build="d" * 64)).startswith(
            "FAILED_PRECONDITION: hall: the request is of build dddddddddddd"
        )
        wrong = wire.tensor_frame(wire.REQUEST, wire.BROADCAST | 5, wire.ANY_BUILD, PIXELS.astype(np.float32))
        assert submit(workers[0], wire.encode_frame(wrong)).startswith("INVALID_ARGUMENT: hall: the request holds")
    with Worker(open_bundle(cluster_dirs[1]), "127.0.0.1:0", 1, LOOPBACK, True) as worker:
        assert submit(worker.address, frame(wire.BROADCAST | 5)) == "UNAVAILABLE: no central node has a stream here"
    with Worker(open_bundle(cluster_dirs[1]), "127.0.0.1:0", 1, LOOPBACK) as worker:
        assert submit(worker.address, frame(wire.BROADCAST | 5)).startswith("UNIMPLEMENTED")


@pytest.mark.parametrize("value", [0, -1, True, "5", 0.5])
def test_ids_are_checked(value: Any) -> None:
    request = messages()["ModelInferRequest"]()
    assert broadcast_of(request) is None
    kind = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}[type(value)]
    setattr(request.parameters["broadcast"], kind, value)
    with pytest.raises(CoformerError, match="send 63 random bits as int64_param"):
        broadcast_of(request)


def reply(value: float) -> Reply:
    return Reply(np.full((1, 2), value, np.float32), arrived=time.monotonic())


def test_an_id_is_answered_once() -> None:
    joined = Broadcasts((1, 2), 60.0)
    joined.arrived(7, 1, reply(1))
    joined.arrived(7, 1, reply(2))  # a second one does not replace it
    joined.arrived(7, 5, reply(3))  # nobody of this cluster
    claimed = joined.claim(7)
    joined.arrived(7, 2, reply(4))
    assert [float(claimed.futures[member].result(1).features[0, 0]) for member in (1, 2)] == [1.0, 4.0]
    with pytest.raises(CoformerError, match="another request has this broadcast id"):
        joined.claim(7)


def test_ids_that_nobody_claims_are_forgotten() -> None:
    joined = Broadcasts((1,), 60.0)
    for number in range(3 * MAX_OPEN):
        joined.arrived(number, 1, reply(number))
    assert len(joined._open) == MAX_OPEN
    assert not joined.claim(0).futures[1].done() and joined.claim(3 * MAX_OPEN - 1).futures[1].done()
    brief = Broadcasts((1,), 0.01)
    brief.arrived(1, 1, reply(1))
    time.sleep(0.02)
    assert not brief.claim(1).futures[1].done()


def test_arrivals_and_claims_at_once() -> None:
    joined, found = Broadcasts((1, 2), 60.0), []
    threads = [
        threading.Thread(target=lambda member=member: [joined.arrived(n, member, reply(n)) for n in range(200)])
        for member in (1, 2)
    ]
    for thread in threads:
        thread.start()
    for number in range(200):
        claimed = joined.claim(number)
        found.append([float(claimed.futures[member].result(10).features[0, 0]) for member in (1, 2)])
    for thread in threads:
        thread.join()
    assert found == [[float(number)] * 2 for number in range(200)]


@pytest.mark.slow
def test_processes(cluster_dirs: List[str]) -> None:
    with LocalCluster(cluster_dirs, broadcast=True) as cluster, cluster.client() as client:
        for _ in range(20):
            np.testing.assert_allclose(
                client.infer(PIXELS).logits, bundles.answer_of(EVERYONE, PIXELS), rtol=1e-4, atol=1e-4
            )
