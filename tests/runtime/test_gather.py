"""One request's wait ends as soon as nothing can change its outcome; silence is judged after a whole deadline."""

import threading
import time
from concurrent.futures import Future
from typing import Dict, FrozenSet

import numpy as np

from coformer_runtime.breaker import Breaker
from coformer_runtime.gather import Round, Unheards
from coformer_runtime.members import BROKEN, LATE, Reply, failed

FEATURES = Reply(np.ones((1, 2), np.float32), arrived=1.0)


def futures(count: int) -> Dict[int, "Future[Reply]"]:
    return {index: Future() for index in range(count)}


def two_needed(lost: FrozenSet[int]) -> bool:
    return len(lost) <= 1


def test_over_when_all_replied() -> None:
    awaited = futures(3)
    round_ = Round(awaited, two_needed)
    awaited[0].set_result(FEATURES)
    awaited[1].set_result(failed("no", BROKEN))
    threading.Timer(0.05, awaited[2].set_result, [FEATURES]).start()
    started = time.monotonic()
    round_.wait(10)
    assert 0.04 < time.monotonic() - started < 5 and awaited[2].done()


def test_over_when_hopeless_or_called_off_or_late() -> None:
    awaited = futures(3)
    round_ = Round(awaited, two_needed)
    awaited[0].set_result(failed("no", BROKEN))
    awaited[1].set_result(failed("no", BROKEN))
    started = time.monotonic()
    round_.wait(10)
    other = Round(futures(3), two_needed)
    threading.Timer(0.01, other.call_off).start()
    other.wait(10)
    assert other.called_off and not round_.called_off
    Round(futures(3), two_needed).wait(0.05)
    Round(futures(3), two_needed).wait(-1)
    assert 0.05 <= time.monotonic() - started < 5


def test_silence_is_judged_when_due() -> None:
    breaker = Breaker()
    unheards = Unheards(breaker)
    now = time.monotonic()
    waiting = futures(3)
    for index, future in waiting.items():
        unheards.add(future, now - 1, now + index)
    unheards.judge(now - 0.1)
    assert breaker.state() == "closed"
    unheards.judge(now + 1.5)
    assert breaker.state() == "closed"
    unheards.judge(now + 3)
    assert breaker.state() == "open"


def test_late_answers_speak_for_themselves() -> None:
    breaker = Breaker()
    unheards = Unheards(breaker)
    for count in range(3):  # a caller in a hurry gave up, the member was in time
        future: "Future[Reply]" = Future()
        unheards.add(future, 0.0, 2.0 + count)
        future.set_result(FEATURES)
        unheards.judge(5.0)
    for _ in range(5):  # it says itself that the caller's budget was over
        future = Future()
        unheards.add(future, 6.0, float("inf"))
        future.set_result(failed("late", LATE))
        unheards.judge(7.0)
    assert breaker.state() == "closed"
    for at in (8.0, 9.0, 10.0):  # it failed after all
        future = Future()
        unheards.add(future, 7.0, 100.0)
        future.set_result(Reply(None, "no", BROKEN, 0.0, at))
        unheards.judge(11.0)
    assert breaker.state() == "open"
