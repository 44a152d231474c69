"""A build of a model that continues texts, from a Hugging Face folder to answers over sockets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.compiler.texts import manifest_of, write_causal_config
from tests.end_to_end.tiny import coformerc

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("causal")
    outcome = coformerc("build", write_causal_config(folder), "-o", folder / "out")
    assert outcome.code == 0, outcome.err
    assert "accuracy stands for the next-token accuracy" in outcome.out
    assert "perplexity on the test split: all together" in outcome.out and "members alone" in outcome.out
    return folder


def test_the_bundles_take_a_text_and_give_the_next_word(built: Path) -> None:
    manifests = [manifest_of(built / "out" / "bundles" / name) for name in ("attic", "hall", "desk")]
    assert all(each["input"] == {"name": "ids", "dtype": "int32", "shape": [1, 96]} for each in manifests)
    assert all(each["answer"]["shape"] == [1, 50] for each in manifests)


def test_validate_finds_nothing_wrong(built: Path) -> None:
    outcome = coformerc("validate", built / "out")
    assert outcome.code == 0, outcome.out + outcome.err


def test_run_names_the_next_word(built: Path) -> None:
    outcome = coformerc("run", built / "out", "--json", "--text", "game of strategy")
    assert outcome.code == 0, outcome.err
    answer = json.loads(outcome.out)["answers"][0]
    assert len(answer["logits"]) == 50 and len(answer["top"]) == 5


def test_half_precision_is_validated_token_by_token(tmp_path: Path) -> None:
    """With every value rounded, by sessions as a board keeps them."""
    config = write_causal_config(tmp_path, ("cpu", "cpu", "jetson-orin-nano"))
    config.write_text(config.read_text().replace('"jetson-orin-nano"', '"jetson-orin-nano"\nprecision = "float16"'))
    outcome = coformerc("build", config, "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    bundle = tmp_path / "out" / "bundles" / "desk"
    assert manifest_of(bundle)["engine"]["precision"] == "float16"
    outcome = coformerc("validate", tmp_path / "out", "--json")
    assert outcome.code == 0, outcome.out + outcome.err
    checks = [each for each in json.loads(outcome.out)["checks"] if each["device"] == "desk"]
    (tokens,) = (each for each in checks if each["name"] == "graphs of single tokens on golden vectors")
    assert tokens["failure"] is None and tokens["skipped"] is None


@pytest.mark.parametrize("boards", [("jetson-nano", "jetson-orin-nano", "cpu")])
def test_boards_get_legal_graphs(boards: tuple[str, ...], tmp_path: Path) -> None:
    outcome = coformerc("build", write_causal_config(tmp_path, boards), "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    outcome = coformerc("validate", tmp_path / "out")
    assert outcome.code == 0, outcome.out + outcome.err
