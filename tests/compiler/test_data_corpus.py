"""Running text as data: blocks, splits, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from coformer_compiler.data import DataSet, load_running_text, load_texts
from coformer_compiler.data.tokenizer import read_tokenizer
from coformer_compiler.model.spec import TokenStemSpec
from coformer_compiler.tasks import LANGUAGE
from coformer_runtime.errors import CoformerError
from tests.compiler.texts import WORDS, causal_tokenizer_json

STEM = TokenStemSpec(10, 51, 50, 8)
NUMBER = {word: 1 + n for n, word in enumerate(WORDS)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tokenizer.json").write_text(causal_tokenizer_json())
    return tmp_path


def load(folder: Path, source: str) -> DataSet:
    return load_running_text(source, read_tokenizer(folder, STEM), calibration=4)


def refused(folder: Path, source: str) -> str:
    with pytest.raises(CoformerError) as caught:
        load(folder, source)
    return str(caught.value)


def test_blocks_follow_each_other(folder: Path) -> None:
    (folder / "a.txt").write_text(" ".join(WORDS * 20))
    data = load(folder, f"corpus:{folder / 'a.txt'}")
    words = [NUMBER[word] for word in WORDS] * 20
    assert [len(split) for split in (data.train, data.validation, data.test)] == [18, 4, 4]
    assert data.train.inputs.dtype == np.int32 and data.train.labels.dtype == np.int64
    np.testing.assert_array_equal(data.train.inputs.flatten(), words[:180])
    np.testing.assert_array_equal(data.train.labels.flatten(), words[1:181])
    np.testing.assert_array_equal(data.test.labels[-1, -1], 0)  # a document ends with the word for that
    assert (data.outputs, data.classes, len(data.calibration), data.task) == (50, 0, 4, LANGUAGE)
    assert load(folder, f"corpus:{folder / 'a.txt'}").sha256 == data.sha256


def test_a_folder_of_documents_or_of_splits(folder: Path) -> None:
    part = folder / "documents" / "deeper"
    part.mkdir(parents=True)
    (part / "one.txt").write_text(" ".join(WORDS * 10))
    (folder / "documents" / "two.txt").write_text(" ".join(WORDS * 10))
    assert len(load(folder, f"corpus:{folder / 'documents'}").train) == 18
    (folder / "documents" / "train.txt").write_text(" ".join(WORDS * 4))
    (folder / "documents" / "dev.txt").write_text(" ".join(WORDS * 2))
    data = load(folder, f"corpus:{folder / 'documents'}")
    assert [len(split) for split in (data.train, data.validation, data.test)] == [4, 2, 1]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no file or folder"),
        (b"game of strategy", "too little text: the train split has no block of 10 tokens"),
        (b"\xff\xfe game", "cannot be read"),
    ],
)
def test_what_is_refused(content: bytes | None, said: str, folder: Path) -> None:
    if content is not None:
        (folder / "a.txt").write_bytes(content)
    assert said in refused(folder, f"corpus:{folder / 'a.txt'}")


def test_the_wrong_kind_for_a_model(folder: Path) -> None:
    (folder / "empty").mkdir()
    assert "holds no .txt file" in refused(folder, f"corpus:{folder / 'empty'}")
    assert "the model reads running text, 'text' holds something else" in refused(folder, "text:a.tsv")
    assert "did you mean 'corpus'?" in refused(folder, "korpus:a.txt")
    with pytest.raises(CoformerError, match="the model reads texts, 'corpus' holds something else"):
        load_texts("corpus:a.txt", read_tokenizer(folder, STEM))


def test_losses_and_metrics_by_hand() -> None:
    """Two blocks of two tokens of three words: chances of a half, a quarter, one and one half."""
    chances = torch.tensor([[[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]], [[0.0, 0.0, 1.0], [0.5, 0.5, 0.0]]])
    labels = torch.tensor([[0, 1], [2, 1]])
    answers = chances.clamp(min=1e-30).log()
    losses = -torch.tensor([0.5, 0.25, 1.0, 0.5]).log()
    torch.testing.assert_close(LANGUAGE.loss(answers, labels), losses.view(2, 2).mean(1))
    told = LANGUAGE.kept(answers, labels)
    assert told.shape == (2, 2, 2)
    assert LANGUAGE.scored(answers, labels) == 0.5
    assert LANGUAGE.metrics[1].measure(told, labels) == pytest.approx(float(losses.mean().exp()))
    torch.testing.assert_close(LANGUAGE.loss(answers[:, -1:], labels), losses[[1, 3]])
