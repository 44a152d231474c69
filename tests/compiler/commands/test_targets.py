"""`coformerc targets`: the list, and all that is known of one."""

from __future__ import annotations

import json
from dataclasses import fields

from coformer_targets import Target, load_target, target_names
from tests.end_to_end.tiny import coformerc


def test_the_list_fits_80_columns() -> None:
    outcome = coformerc("targets")
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["target", "engine", "GiB", "GFLOPS", "device"]
    assert [line.split()[0] for line in lines[1:] if not line.startswith(" ")] == list(target_names())
    nano = next(line for line in lines if line.startswith("jetson-nano "))
    assert nano.split() == ["jetson-nano", "TensorRT", "8.2.1", "4", "54", "NVIDIA", "Jetson", "Nano"]


def test_all_that_is_known_of_one() -> None:
    outcome = coformerc("targets", "jetson-nano")
    lines = outcome.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("jetson-nano: NVIDIA Jetson Nano, 4 GB")
    shown = {line.split()[0] for line in lines[3:] if not line.startswith(" ")}
    assert shown == {field.name for field in fields(Target)} - {"name", "title", "sources"}
    assert any(line.split()[:3] == ["precisions", "float32,", "float16"] for line in lines)


def test_json() -> None:
    assert [target["name"] for target in json.loads(coformerc("targets", "--json").out)] == list(target_names())
    found = json.loads(coformerc("targets", "jetson-nano", "--json").out)
    assert (found["opset"], found["sources"]) == (13, dict(load_target("jetson-nano").sources))


def test_a_target_that_nobody_knows() -> None:
    outcome = coformerc("targets", "jetson-nanno")
    assert (outcome.code, outcome.err) == (
        2,
        "error: target 'jetson-nanno': no such target; did you mean the target 'jetson-nano'?\n",
    )
