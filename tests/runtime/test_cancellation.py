"""A caller that leaves is noticed by the workers: what he asked for and nobody has begun is never begun."""

import contextlib
import threading
import time
from typing import Any, Iterator, List, NamedTuple

import grpc
import numpy as np
import pytest

from coformer_runtime.bundle import open_bundle
from coformer_runtime.central import CalledOff
from coformer_runtime.front import open_front
from coformer_runtime.metrics import labels
from coformer_runtime.oip import SERVICE, messages
from coformer_runtime.worker import Worker
from tests.runtime import bundles
from tests.runtime.nodes import PIXELS, gathering, serving, settled

OTHERS = 255 - PIXELS
UNDER_WAY_S = 0.5  # what the worker is told is there by then


class Gated(NamedTuple):
    """A worker in this process whose engine runs when it may; `begun` has the inputs of the runs that began."""

    worker: Worker
    may: threading.Event
    begun: List[np.ndarray]

    def count(self, outcome: str) -> int:
        """Return how many requests ended so."""
        return int(self.worker.counts.requests.value(labels({"outcome": outcome})))


@contextlib.contextmanager
def gated(bundle_dir: str) -> Iterator[Gated]:
    with Worker(open_bundle(bundle_dir), "127.0.0.1:0", 1) as worker:
        may, begun, engine = threading.Event(), [], worker._engines[0]
        run = engine.run

        def wait_and_run(feeds: Any) -> Any:
            begun.append(np.array(feeds["pixels"]))
            assert may.wait(20)
            return run(feeds)

        engine.run = wait_and_run
        try:
            yield Gated(worker, may, begun)
        finally:
            may.set()


def request_of(pixels: np.ndarray) -> bytes:
    request = messages()["ModelInferRequest"](model_name="coformer")
    request.inputs.add(name="pixels", datatype="UINT8", shape=pixels.shape)
    request.raw_input_contents.append(pixels.tobytes())
    data: bytes = request.SerializeToString()
    return data


def test_what_a_client_cancels_is_never_begun(cluster_dirs: List[str]) -> None:
    """One request runs, another waits behind it: cancelled by its client, it ends at the worker before its turn."""
    with gated(cluster_dirs[1]) as hall, serving(cluster_dirs[2]) as desk, grpc_front(
        cluster_dirs[0], [hall.worker.address, desk]
    ) as infer:
        first = infer.future(request_of(PIXELS), timeout=20)
        settled(lambda: len(hall.begun) == 1)
        second = infer.future(request_of(OTHERS), timeout=20)
        third = infer.future(request_of(PIXELS), timeout=20)
        settled(lambda: infer.central.in_progress == 3)
        second.cancel()
        settled(lambda: infer.central.in_progress == 2)
        time.sleep(UNDER_WAY_S)
        hall.may.set()
        for call in (first, third):
            response = messages()["ModelInferResponse"].FromString(call.result(20))
            logits = np.frombuffer(response.raw_output_contents[0], "<f4").reshape(1, 5)
            np.testing.assert_allclose(logits, bundles.answer_of((0, 1, 2), PIXELS), rtol=1e-4, atol=1e-4)
        settled(lambda: hall.count("cancelled") == 1)
        assert second.cancelled()
        assert [np.array_equal(array, PIXELS) for array in hall.begun] == [True, True]
        assert hall.count("features") == 2
        assert infer.central.breaker_states()["hall"] == "closed"  # he left; the worker did nothing wrong


def test_what_runs_when_its_client_cancels_blocks_nobody(cluster_dirs: List[str]) -> None:
    """A run cannot be broken off, but its place at the central node is free at once, and the next one is answered."""
    with gated(cluster_dirs[1]) as hall, serving(cluster_dirs[2]) as desk, grpc_front(
        cluster_dirs[0], [hall.worker.address, desk]
    ) as infer:
        first = infer.future(request_of(OTHERS), timeout=20)
        settled(lambda: len(hall.begun) == 1)
        first.cancel()
        settled(lambda: infer.central.in_progress == 0)
        hall.may.set()
        assert infer(request_of(PIXELS), timeout=20)
        assert len(hall.begun) == 2


def test_gone_caller_is_not_answered_and_members_are_told(cluster_dirs: List[str]) -> None:
    """A caller who has gone before his members are asked: they are told, and the engine does not run for him."""
    with gated(cluster_dirs[1]) as hall, serving(cluster_dirs[2]) as desk, gathering(
        cluster_dirs[0], [hall.worker.address, desk]
    ) as central:
        answers: List[Any] = []
        thread = threading.Thread(target=lambda: answers.append(central.answer(PIXELS)))
        thread.start()
        settled(lambda: len(hall.begun) == 1)
        with pytest.raises(CalledOff, match="the caller has gone; ask again"):
            central.answer(OTHERS, on_gone=lambda call_off: False)
        time.sleep(UNDER_WAY_S)
        hall.may.set()
        thread.join()
        assert answers[0].members == bundles.DEVICES
        settled(lambda: hall.count("cancelled") == 1)
        assert [np.array_equal(array, PIXELS) for array in hall.begun] == [True]
        assert central.answer(PIXELS, on_gone=lambda call_off: True).members == bundles.DEVICES


class Infer:
    """ModelInfer of a central node in this process."""

    def __init__(self, central: Any, channel: Any) -> None:
        self.central = central
        self._call = channel.unary_unary("/{}/ModelInfer".format(SERVICE))
        self.future = self._call.future

    def __call__(self, data: bytes, timeout: float) -> bytes:
        """Return the response."""
        answered: bytes = self._call(data, timeout=timeout)
        return answered


@contextlib.contextmanager
def grpc_front(bundle_dir: str, workers: List[str]) -> Iterator[Infer]:
    with gathering(bundle_dir, workers, deadline_ms=15000) as central:
        server, address = open_front(central, "127.0.0.1:0")
        try:
            with grpc.insecure_channel(address) as channel:
                yield Infer(central, channel)
        finally:
            server.stop(0).wait()
