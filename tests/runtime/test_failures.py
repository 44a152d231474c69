"""The log: one JSON object a line, with all that an operator needs and nothing that a peer was told."""

import json
import re
from typing import Any, Dict, List

import pytest

from coformer_runtime.failures import log, report
from tests.runtime.nodes import PIXELS, gathering, serving, settled


def lines(text: str) -> List[Dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_lines(capsys: pytest.CaptureFixture) -> None:
    log("it\nhappened", {"count": 3, "text": 'a "quoted"\nüber'})
    try:
        raise ValueError("secret\nlines")
    except ValueError as error:
        incident = report("broken", error)
    first, second = lines(capsys.readouterr().err)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first.pop("time"))
    assert first == {"event": "it\nhappened", "count": 3, "text": 'a "quoted"\nüber'}
    assert second["incident"] == incident and second["trace"].endswith("ValueError: secret\nlines\n")


def test_workers_and_breakers(cluster_dirs: List[str], capsys: pytest.CaptureFixture) -> None:
    with serving(cluster_dirs[1]) as hall, gathering(cluster_dirs[0], ["hall=" + hall], min_members=1) as central:
        settled(lambda: "hall" not in central.missing())
        central.answer(PIXELS)
        for at in range(3):
            central._breakers[1].failed(float(at))
        central._breakers[1].succeeded()
    said = lines(capsys.readouterr().err)
    assert [line["event"] for line in said] == ["worker up", "breaker", "breaker"]
    assert (said[0]["worker"], said[0]["device"]) == (hall, "hall")
    assert [(line["device"], line["state"]) for line in said[1:]] == [("hall", "open"), ("hall", "closed")]


def test_a_worker_that_stays_away_is_told_once(cluster_dirs: List[str], capsys: pytest.CaptureFixture) -> None:
    with gathering(cluster_dirs[0], ["hall=127.0.0.1:9"], min_members=1) as central:
        reason = central.missing()["hall"]
        settled(lambda: central._roster.links[0].tried.wait(0.4))
    said = [line for line in lines(capsys.readouterr().err) if line["event"] == "worker away"]
    assert 1 <= len(said) <= 2 and said[0]["reason"] == reason and said[0]["worker"] == "127.0.0.1:9"
    assert reason == "unreachable: 127.0.0.1:9 (unavailable)" and "connect" in said[0]["details"]
