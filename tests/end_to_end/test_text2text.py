"""A build of a T5 with its decoder, from a Hugging Face folder to answers over sockets: the same tokens as torch."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from coformer_compiler.commands.build_folder import open_build
from coformer_compiler.model.system import System, load_system
from coformer_runtime.cluster import LocalCluster
from coformer_runtime.errors import CoformerError
from tests.compiler.texts import manifest_of, write_text2text_config
from tests.end_to_end.tiny import coformerc

pytestmark = pytest.mark.slow
READ, WRITTEN, WORDS, END = 20, 64, 50, 1


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text2text")
    outcome = coformerc("build", write_text2text_config(folder), "-o", folder / "out")
    assert outcome.code == 0, outcome.err
    assert "accuracy stands for the exact match" in outcome.out
    assert "token accuracy on the test split" in outcome.out and "perplexity on the test split" in outcome.out
    return folder / "out"


def bundles(built: Path) -> list[str]:
    return [str(built / "bundles" / name) for name in ("attic", "hall", "desk")]


def system_of(built: Path) -> System:
    return load_system(open_build(built).system)


@torch.no_grad()
def reference(
    system: System, text: np.ndarray, count: int, subset: tuple[int, ...] = (0, 1, 2), begun: tuple[int, ...] = ()
) -> list[int]:
    """Greedy tokens of the assembled system in torch, all of it computed anew for each."""
    answer = [0, *begun]
    for _ in range(count):
        ids = torch.full((1, READ + WRITTEN), WORDS, dtype=torch.int32)
        ids[0, :READ] = 0
        ids[0, : len(text)] = torch.from_numpy(text)
        ids[0, READ : READ + len(answer)] = torch.tensor(answer)
        features = system.sent(ids)
        answer.append(int(system.aggregator({n: features[n] for n in subset}).argmax()))
        if answer[-1] == END:
            break
    return answer[1 + len(begun) :]


def text_with_a_long_answer(system: System, count: int) -> tuple[np.ndarray, list[int]]:
    """A text, and an answer to it of so many tokens that are not all the same."""
    for seed in range(60):
        text = np.append(np.random.default_rng(seed).integers(3, WORDS, 9 + seed % 10), END).astype(np.int32)
        wanted = reference(system, text, count)
        if len(wanted) == count and len(set(wanted)) > 2:
            return text, wanted
    raise AssertionError("every answer ends early")


def test_the_bundles_say_how_a_text_is_read_and_answered(built: Path) -> None:
    manifest = manifest_of(built / "bundles" / "hall")
    assert manifest["input"] == {"name": "ids", "dtype": "int32", "shape": [1, READ + WRITTEN]}
    assert manifest["generation"] == {
        "step": "decoder/step.onnx",
        "context": WRITTEN,
        "padding": WORDS,
        "end": END,
        "source": {"graph": "decoder/source.onnx", "length": READ, "padding": 0, "start": 0},
    }


def test_64_tokens_are_those_of_torch(built: Path) -> None:
    text, wanted = text_with_a_long_answer(system_of(built), WRITTEN)
    with LocalCluster(bundles(built), deadline_ms=20000) as cluster, cluster.client() as client:
        found = list(client.generate(text, WRITTEN))
        assert [token.number for token in found] == wanted
        assert all(token.members == ("attic", "hall", "desk") and not token.degraded for token in found)
        short = np.array([5, END], np.int32)
        assert [token.number for token in client.generate(short, 8)] == reference(system_of(built), short, 8)


def test_what_a_cluster_refuses(built: Path) -> None:
    with LocalCluster(bundles(built), deadline_ms=20000) as cluster, cluster.client() as client:

        def refused(text: list[int], max_tokens: int) -> str:
            with pytest.raises(CoformerError) as caught:
                list(client.generate(np.array(text, np.int32), max_tokens))
            return str(caught.value)

        assert "the prompt is empty" in refused([], 4)
        assert "the text has 21 tokens, the members read 20" in refused([3] * 21, 4)
        assert "max_tokens is 65, the members write 64" in refused([3], 65)
        assert "ask for at most 64 tokens, or build with a larger model.options.target_length" in refused([3], 65)


def test_an_answer_goes_on_with_a_subset(built: Path) -> None:
    text, _ = text_with_a_long_answer(system_of(built), 24)
    with LocalCluster(bundles(built), deadline_ms=20000, min_members=2) as cluster, cluster.client() as client:
        found = []
        for token in client.generate(text, 24):
            found.append(token)
            if len(found) == 5:
                cluster.kill("desk")
    together = next(n for n, token in enumerate(found) if token.degraded)
    assert together >= 5 and all(token.members == ("attic", "hall") for token in found[together:])
    begun = tuple(token.number for token in found[:together])
    wanted = reference(system_of(built), text, len(found) - together, (0, 1), begun)
    assert [token.number for token in found[together:]] == wanted


def test_run_answers_a_text(built: Path) -> None:
    asked = ("run", built, "--text", "game of strategy", "--max-tokens", 6)
    outcome, answer = coformerc(*asked), json.loads(coformerc(*asked, "--json").out)
    assert outcome.code == 0, outcome.err
    assert outcome.out.strip() == answer["text"].strip() and 1 <= len(answer["tokens"]) <= 6
    first = json.loads(coformerc("run", built, "--json", "--text", "game of strategy").out)["answers"][0]
    assert first["label"] == answer["text"].split()[0]


def test_run_refuses_or_cuts_a_text_that_is_too_long(built: Path) -> None:
    asked = ("run", built, "--text", "game " * 21, "--max-tokens", 2)
    assert "1 of 1 texts are longer than 20 tokens" in coformerc(*asked).err
    outcome = coformerc(*asked, "--truncate", "--json")
    assert outcome.code == 0 and json.loads(outcome.out)["cut_texts"] == 1, outcome.err
    assert "the members write 64" in coformerc("run", built, "--text", "game", "--max-tokens", 65).err
    assert "the prompt is empty" in coformerc("run", built, "--text", " ", "--max-tokens", 2).err


def test_validate_runs_the_graphs_of_single_tokens(built: Path, tmp_path: Path) -> None:
    """Weights that are not what they were pass every check of files once the manifest names them."""
    assert coformerc("validate", built).code == 0
    shutil.copytree(built, tmp_path / "out")
    bundle, name = tmp_path / "out" / "bundles" / "attic", "decoder/step.onnx.data"
    changed = bytes(len((bundle / name).read_bytes()))
    (bundle / name).write_bytes(changed)
    content = json.loads((bundle / "manifest.json").read_text())
    content["files"][name]["sha256"] = hashlib.sha256(changed).hexdigest()
    (bundle / "manifest.json").write_text(json.dumps(content, sort_keys=True, indent=2) + "\n")
    outcome = coformerc("validate", tmp_path / "out")
    assert outcome.code == 1
    assert "FAILED    attic         graphs of single tokens on golden vectors" in outcome.out
    assert "golden case 0 differs by" in outcome.out


@pytest.mark.parametrize("boards", [("jetson-nano", "jetson-orin-nano", "cpu")])
def test_boards_get_legal_graphs(boards: tuple[str, str, str], tmp_path: Path) -> None:
    outcome = coformerc("build", write_text2text_config(tmp_path, boards), "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    outcome = coformerc("validate", tmp_path / "out")
    assert outcome.code == 0, outcome.out + outcome.err
    assert outcome.out.count("graphs of single tokens on golden vectors") == 3
