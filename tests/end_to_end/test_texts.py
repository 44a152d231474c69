"""A build that reads texts, from a Hugging Face folder to answers over sockets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.compiler.texts import manifest_of, write_config
from tests.end_to_end.tiny import Outcome, coformerc


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    config = write_config(folder)
    outcome = coformerc("build", config, "-o", folder / "mixed")
    assert outcome.code == 0, outcome.err
    config.write_text(config.read_text().replace("jetson-nano", "cpu"))
    outcome = coformerc("build", config, "-o", folder / "out")
    assert outcome.code == 0, outcome.err
    return folder


def test_the_bundles_take_token_numbers(built: Path) -> None:
    manifests = [manifest_of(built / "out" / "bundles" / name) for name in ("attic", "hall", "desk")]
    assert all(each["input"] == {"name": "ids", "dtype": "int32", "shape": [1, 10]} for each in manifests)
    holders = [each["device"] for each in manifests if "tokenizer.json" in each["files"]]
    assert holders == [manifests[0]["central"]]


@pytest.mark.parametrize("out", ["out", "mixed"])
def test_validate_finds_nothing_wrong(out: str, built: Path) -> None:
    outcome = coformerc("validate", built / out)
    assert outcome.code == 0, outcome.out + outcome.err


def run(built: Path, *words: object) -> Outcome:
    return coformerc("run", built / "out", "--json", *words)


def test_run_answers_texts(built: Path, tmp_path: Path) -> None:
    (tmp_path / "two.txt").write_text("game of strategy\nmail server\n")
    outcome = run(built, "--input", tmp_path / "two.txt")
    assert outcome.code == 0, outcome.err
    answers = json.loads(outcome.out)["answers"]
    assert [len(each["top"]) for each in answers] == [3, 3]
    alone = run(built, "--text", "game of strategy")
    assert json.loads(alone.out)["answers"][0]["logits"] == answers[0]["logits"]


def test_run_refuses_or_cuts_long_texts(built: Path) -> None:
    outcome = run(built, "--text", "game " * 30)
    assert outcome.code == 2
    assert "1 of 1 texts are longer than 10 tokens" in outcome.out
    outcome = run(built, "--text", "game " * 30, "--truncate")
    assert json.loads(outcome.out)["cut_texts"] == 1
    assert "this is no pair" in run(built, "--text", "a\tb\tc").out
