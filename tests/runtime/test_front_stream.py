"""A stream of texts: one callback of gRPC for all its tokens, and the round under way is called off with the stream."""

import gc
import threading
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, List

import numpy as np
import pytest

from coformer_runtime.answer import Answer, Phases
from coformer_runtime.bundle import open_bundle
from coformer_runtime.client import Client
from coformer_runtime.errors import CoformerError
from coformer_runtime.front import _parsed, crowded, open_front, told_of
from coformer_runtime.front_stream import Reader, StreamFront
from coformer_runtime.gather import Round
from coformer_runtime.golden import check_bundle
from coformer_runtime.oip import messages, set_parameter
from tests.runtime import generation_bundles
from tests.runtime.fake_decoder import fake_manifest
from tests.runtime.nodes import gathering, serving

TOKENS = 10  # of a text: the context holds 12


class CountingContext:
    """gRPC's context of a stream: keeps each callback until the stream ends."""

    def __init__(self, active: bool = True) -> None:
        self.callbacks: List[Callable[[], None]] = []
        self.active = active

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Keep it where the stream is still there."""
        if self.active:
            self.callbacks.append(callback)
        return self.active


class FakeCentral:
    """Chooses token 7 each time, with a round as the real one has; notes the rounds and which were called off."""

    def __init__(self) -> None:
        self.manifest = fake_manifest()
        self.observed = SimpleNamespace(refused=lambda status: None)
        self.rounds: "List[weakref.ref[Round]]" = []
        self.during: Callable[[], None] = lambda: None
        self.called_off: List[bool] = []

    def serving(self, version: str) -> "FakeCentral":
        """One build."""
        return self

    def answer(self, array: Any, budget_s: Any, on_gone: Any, without: Any) -> Answer:
        """Token 7."""
        round_ = Round({}, lambda lost: True)
        self.rounds.append(weakref.ref(round_))
        there = on_gone(round_.call_off)
        self.during()
        self.called_off.append(round_.called_off or not there)
        logits = np.zeros((1, 50), np.float32)
        logits[0, 7] = 1
        return Answer(logits, ("attic",), False, {}, 0.9, "ab" * 32, Phases(1.0, 1.0, 0.0, {}, {}))


def text_of(count: int) -> bytes:
    request = messages()["ModelInferRequest"](model_name="coformer", id="seven")
    request.inputs.add(name="ids", datatype="INT32", shape=(1, 2))
    request.raw_input_contents.append(np.array([1, 2], "<i4").tobytes())
    set_parameter(request.parameters["max_tokens"], count)
    data: bytes = request.SerializeToString()
    return data


def stream_front(central: Any) -> StreamFront:
    return StreamFront(central, _parsed, lambda name, version: None, told_of, crowded)


def test_a_stream_has_one_callback_and_keeps_no_round() -> None:
    """Five texts of ten tokens on one stream that stays open: nothing of them is left in gRPC's hands."""
    central, context = FakeCentral(), CountingContext()

    def requests() -> Any:
        for _ in range(5):
            yield text_of(TOKENS)
        gc.collect()
        alive.append(sum(each() is not None for each in central.rounds))

    alive: List[int] = []
    told = list(stream_front(central).converse(requests(), context))
    assert len(told) == len(central.rounds) == 5 * TOKENS
    assert not any(messages()["ModelStreamInferResponse"].FromString(each).error_message for each in told)
    assert len(context.callbacks) == 1 and alive == [0]
    assert not any(central.called_off)


def test_the_round_under_way_is_called_off_with_the_stream() -> None:
    central, context = FakeCentral(), CountingContext()

    def hang_up() -> None:
        if len(central.rounds) == 3:
            context.callbacks[0]()

    central.during = hang_up
    list(stream_front(central).converse(iter([text_of(4)]), context))
    assert central.called_off == [False, False, True, True]  # and a round that comes later is not even begun


@pytest.mark.parametrize("active", [True, False])
def test_a_reader_that_is_gone_is_gone_for_every_round(active: bool) -> None:
    context = CountingContext(active)
    reader, gone = Reader(context), threading.Event()
    assert reader.on_gone(gone.set) is active
    reader.forget()
    for callback in context.callbacks:
        callback()
    assert not gone.is_set() and not reader.on_gone(gone.set)


def test_a_cluster_continues_texts(tmp_path: Path) -> None:
    """Over real sockets, with real graphs: tokens are those of numpy, also where a prompt is read in pieces."""
    dirs = generation_bundles.make_generation_cluster(tmp_path)
    for each in dirs:
        check_bundle(open_bundle(each))
    with serving(dirs[1]) as hall, serving(dirs[2]) as desk, gathering(dirs[0], [hall, desk]) as central:
        server, address = open_front(central, "127.0.0.1:0")
        with Client(address) as client:
            for prompt in ([1], [0, 3, 2, 4, 4, 1]):
                count = generation_bundles.CONTEXT + 1 - len(prompt)
                found = list(client.generate(np.array(prompt, np.int32), count))
                assert [token.number for token in found] == generation_bundles.continued((0, 1, 2), prompt, count)
                assert all(token.members == ("attic", "hall", "desk") for token in found)
            with pytest.raises(CoformerError, match="the members' context holds 12"):
                list(client.generate(np.array([1, 2], np.int32), 12))
        server.stop(0).wait()
