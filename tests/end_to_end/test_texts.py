"""A build that reads texts, from a Hugging Face folder to answers over sockets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coformer_compiler.torchvision_operators import ensure_torchvision_operators
from tests.compiler.frontends.hf_models import hf_model, save_hf
from tests.compiler.texts import manifest_of, rows, write_config, write_teacher, write_tsv
from tests.end_to_end.tiny import Outcome, coformerc

WIDE_T5 = {"d_model": 48, "num_heads": 6, "d_kv": 8, "d_ff": 96, "feed_forward_proj": "gated-gelu"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    config = write_config(folder)
    config.write_text(config.read_text().replace("jetson-nano", "cpu"))
    outcome = coformerc("build", config, "-o", folder / "out")
    assert outcome.code == 0, outcome.err
    return folder


def test_the_bundles_take_token_numbers(built: Path) -> None:
    manifests = [manifest_of(built / "out" / "bundles" / name) for name in ("attic", "hall", "desk")]
    assert all(each["input"] == {"name": "ids", "dtype": "int32", "shape": [1, 10]} for each in manifests)
    words = json.loads((built / "teacher" / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    assert all(each["vocabulary"] == [words] for each in manifests)
    holders = [each["device"] for each in manifests if "tokenizer.json" in each["files"]]
    assert holders == [manifests[0]["central"]]


@pytest.mark.slow
@pytest.mark.parametrize("board", ["cpu", "jetson-nano", "jetson-orin-nano"])
def test_validate_finds_nothing_wrong(board: str, built: Path, tmp_path: Path) -> None:
    """Graphs are legal for the boards' engines and equal to torch; on the CPU also over sockets."""
    out = built / "out"
    if board != "cpu":
        config, out = write_config(tmp_path), tmp_path / "out"
        config.write_text(config.read_text().replace("jetson-nano", board))
        outcome = coformerc("build", config, "-o", out)
        assert outcome.code == 0, outcome.err
    outcome = coformerc("validate", out)
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
    assert "text 1 is empty; give every text at least one word" in run(built, "--text", " ").err
    assert "these are not all single texts, or all pairs" in run(built, "--text", "a\tb\tc").out


@pytest.mark.slow
def test_embeddings(tmp_path: Path) -> None:
    """A checkpoint without classifier: members learn its embeddings, and `run` answers with one."""
    config = write_config(tmp_path, source="sentences:topics.tsv", options='pool = "mean"\nnormalise = true')
    wide = {"hidden_size": 48, "num_attention_heads": 6, "intermediate_size": 96}
    save_hf(hf_model("bert", **wide).bert, tmp_path / "teacher")
    config.write_text(config.read_text().replace("jetson-nano", "cpu"))
    outcome = coformerc("build", config, "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert "accuracy stands for the mean cosine" in outcome.out
    assert "retrieval agreement on the test split" in outcome.out
    answer = json.loads(coformerc("run", tmp_path / "out", "--json", "--text", "mail server").out)["answers"][0]
    assert len(answer["embedding"]) == 48
    assert sum(number**2 for number in answer["embedding"]) == pytest.approx(1, abs=1e-4)
    assert "48 numbers" in coformerc("run", tmp_path / "out", "--text", "mail server").out


@pytest.mark.slow
@pytest.mark.parametrize("board", ["jetson-nano", "jetson-orin-nano"])
def test_a_t5_classifier(board: str, tmp_path: Path) -> None:
    """Gated, with RMSNorm and relative positions, and a classifier behind the mean."""
    config = write_config(tmp_path)
    config.write_text(config.read_text().replace("jetson-nano", board))
    save_hf(hf_model("t5", num_labels=3, **WIDE_T5), tmp_path / "teacher")
    outcome = coformerc("build", config, "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert coformerc("validate", tmp_path / "out").code == 0


@pytest.mark.slow
def test_embeddings_of_t5s_encoder(tmp_path: Path) -> None:
    """Out of a checkpoint that has a decoder, too; the build says how to leave it out."""
    ensure_torchvision_operators()
    from transformers import T5Config, T5ForConditionalGeneration

    config = write_config(tmp_path, source="sentences:topics.tsv")
    config.write_text(config.read_text().replace("jetson-nano", "cpu"))
    (tmp_path / "teacher" / "model.safetensors").unlink()
    T5ForConditionalGeneration(T5Config(vocab_size=50, num_layers=2, **WIDE_T5)).save_pretrained(tmp_path / "teacher")
    outcome = coformerc("build", config, "-o", tmp_path / "out")
    assert outcome.code == 2
    assert "the model reads texts with their answers, 'sentences' holds something else" in outcome.err
    assert "choose one of text2text, or set model.options.part = 'encoder'" in outcome.err
    config.write_text(config.read_text().replace("length = 10", 'length = 10\npart = "encoder"'))
    outcome = coformerc("build", config, "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert coformerc("validate", tmp_path / "out").code == 0
    answer = json.loads(coformerc("run", tmp_path / "out", "--json", "--text", "mail server").out)["answers"][0]
    assert len(answer["embedding"]) == 48


@pytest.mark.slow
def test_regression_on_pairs(tmp_path: Path) -> None:
    """STS-B's form on pairs with token types: one number, scored by correlation."""
    config = write_config(tmp_path, source="glue-stsb:sts", options="pairs = true")
    config.write_text(config.read_text().replace("length = 10", "length = 20").replace("jetson-nano", "cpu"))
    write_teacher(tmp_path / "teacher", num_labels=1)
    pairs = [(str(n), first, second, f"{n % 6}") for n, (first, second, _) in enumerate(rows(90, pairs=True))]
    for name, part in (("train", pairs[:60]), ("dev", pairs[60:])):
        write_tsv(tmp_path / "sts" / f"{name}.tsv", ("index", "sentence1", "sentence2", "score"), part)
    outcome = coformerc("build", config, "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert "accuracy stands for the Pearson correlation" in outcome.out
    assert coformerc("validate", tmp_path / "out").code == 0
    answer = json.loads(coformerc("run", tmp_path / "out", "--json", "--text", "mail server\tweb game").out)["answers"][
        0
    ]
    assert isinstance(answer["value"], float)


@pytest.mark.slow
def test_classification_of_pairs(tmp_path: Path) -> None:
    """MRPC's form, byte order mark and all, from its files to answers: accuracy and F1, and rows that are left out."""
    config = write_config(tmp_path, source="glue-mrpc:mrpc", options="pairs = true")
    config.write_text(config.read_text().replace("length = 10", "length = 20").replace("jetson-nano", "cpu"))
    write_teacher(tmp_path / "teacher", num_labels=2)
    pairs = [(str(n % 2), str(n), "0", *texts) for n, (*texts, _) in enumerate(rows(90, pairs=True))]
    columns = ("\ufeffQuality", "#1 ID", "#2 ID", "#1 String", "#2 String")
    for name, part in (("train", [*pairs[:60], ("1", "7", "8", "game")]), ("dev", pairs[60:])):
        write_tsv(tmp_path / "mrpc" / f"{name}.tsv", columns, part)
    outcome = coformerc("build", config, "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert "1 of 61 rows of 'train.tsv' were left out" in outcome.out
    assert "F1 on the test split" in outcome.out
    assert coformerc("validate", tmp_path / "out").code == 0
    outcome = coformerc("run", tmp_path / "out", "--json", "--text", "mail server\tweb game")
    assert outcome.code == 0, outcome.err
    assert len(json.loads(outcome.out)["answers"][0]["logits"]) == 2


def test_classes_in_another_order_are_refused(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    path = tmp_path / "teacher" / "config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "id2label": {"0": "Mail", "1": "games", "2": "libs"}}))
    outcome = coformerc("build", config, "-o", tmp_path / "out")
    assert outcome.code == 2
    assert "the data numbers its classes games, libs, mail, the teacher mail, games, libs" in outcome.err
