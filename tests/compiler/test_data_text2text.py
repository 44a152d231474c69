"""Texts with the texts that answer them: what is read, what is written, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from coformer_compiler.data import DataSet, load_running_text, load_text2text
from coformer_compiler.data.tokenizer import read_tokenizer
from coformer_compiler.model.spec import BridgeSpec, NormSpec, TokenStemSpec
from coformer_compiler.tasks import IGNORED, TEXT_TO_TEXT
from coformer_runtime.errors import CoformerError
from tests.compiler.texts import WORDS, t5_tokenizer_json

READ, WRITTEN, PAD, END = 8, 5, 50, 1
STEM = TokenStemSpec(READ, 50, 0, 8, positions=False, behind=WRITTEN)
BRIDGE = BridgeSpec(NormSpec(8), TokenStemSpec(WRITTEN, 51, PAD, 8, positions=False, before=READ), 0)
NUMBER = {word: 3 + n for n, word in enumerate(WORDS)}
ROWS = [{"source": f"{word} the {word}", "target": f"{word} {word}"} for word in WORDS] * 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tokenizer.json").write_text(t5_tokenizer_json())
    return tmp_path


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text("\n".join("\t".join(row) for row in [list(rows[0]), *(list(r.values()) for r in rows)]) + "\n")
    return path


def load(folder: Path, source: object, *, truncate: bool = False) -> DataSet:
    return load_text2text(str(source), read_tokenizer(folder, STEM), BRIDGE, calibration=4, truncate=truncate)


def refused(folder: Path, rows: list[dict[str, str]]) -> str:
    with pytest.raises(CoformerError) as caught:
        load(folder, f"text2text:{write(folder / 'rows.tsv', rows)}")
    return str(caught.value)


@pytest.mark.parametrize("name", ["rows.tsv", "rows.jsonl"])
def test_what_is_written_is_shifted_by_the_start(name: str, folder: Path) -> None:
    data = load(folder, f"text2text:{write(folder / name, ROWS)}")
    assert [len(split) for split in (data.train, data.validation, data.test)] == [36, 8, 8]
    assert (data.outputs, data.classes, len(data.calibration), data.task) == (PAD, 0, 4, TEXT_TO_TEXT)
    ids, labels = data.train.inputs[0], data.train.labels[0]
    assert ids.dtype == np.int32 and ids.shape == (READ + WRITTEN,)
    word = int(ids[0])
    assert ids.tolist() == [word, NUMBER["the"], word, END, 0, 0, 0, 0, 0, word, word, PAD, PAD]
    assert labels.tolist() == [word, word, END, IGNORED, IGNORED]


def test_both_forms_of_a_table_are_one_data_set(folder: Path) -> None:
    found = [load(folder, f"text2text:{write(folder / name, ROWS)}").sha256 for name in ("a.tsv", "a.jsonl")]
    assert found[0] == found[1]


def test_a_folder_of_splits(folder: Path) -> None:
    for name, count in (("train.jsonl", 20), ("dev.jsonl", 5)):
        write(folder / "tables" / name, ROWS[:count])
    data = load(folder, f"text2text:{folder / 'tables'}")
    assert [len(split) for split in (data.train, data.validation, data.test)] == [17, 5, 3]


def test_what_is_too_long_is_refused_or_cut_and_counted(folder: Path) -> None:
    read = [*ROWS, {"source": " ".join(["the"] * 9), "target": "the"}]
    assert "texts are longer than 8 tokens; text " in refused(folder, read)
    written = [*ROWS, {"source": "the", "target": " ".join(["the"] * 5)}]
    said = refused(folder, written)
    assert "targets are longer than 5 tokens" in said and "has 6: 'the the the the the'" in said
    assert "set model.options.target_length higher, or data.truncate = true to cut them" in said
    both = [*read, written[-1]]
    data = load(folder, f"text2text:{write(folder / 'rows.tsv', both)}", truncate=True)
    assert data.notes == (f"2 of {2 * len(both)} texts were cut to 8 and 5 tokens",)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"source": " ", "target": "the"}, "is empty; give every text at least one word"),
        ({"source": "the", "target": " "}, "is empty; give every target at least one word"),
    ],
)
def test_an_empty_text_is_refused(row: dict[str, str], said: str, folder: Path) -> None:
    assert said in refused(folder, [*ROWS, row])


def test_a_missing_column_or_file(folder: Path) -> None:
    rows = [{"source": "the", "answer": "the"}]
    assert "'rows.tsv' has no column 'target'; there are source, answer" in refused(folder, rows)
    with pytest.raises(CoformerError, match=r"name a .tsv, .jsonl or .parquet file with the columns source and target"):
        load(folder, "text2text:nowhere.tsv")
    (folder / "torn.jsonl").write_text('{"source": "the", "target": "of"}\n{"source": "the"}\n')
    with pytest.raises(CoformerError, match=r"row 2 of 'torn.jsonl' has no 'target'"):
        load(folder, f"text2text:{folder / 'torn.jsonl'}")
    (folder / "none.jsonl").write_text("source target\n")
    with pytest.raises(CoformerError, match="give a file in UTF-8 with a JSON object on every line"):
        load(folder, f"text2text:{folder / 'none.jsonl'}")


def test_other_models_take_other_data(folder: Path) -> None:
    with pytest.raises(CoformerError, match="the model reads texts with their answers, 'corpus' holds something else"):
        load(folder, "corpus:books")
    with pytest.raises(CoformerError, match="the model reads running text, 'text2text' holds something else"):
        load_running_text("text2text:rows.tsv", read_tokenizer(folder, STEM))


def test_a_tokenizer_without_an_end_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").write_text(t5_tokenizer_json().replace("</s>", "<stop>"))
    assert "the tokenizer has no word for the end of a text, none of <|endoftext|>, </s>, <eos>" in refused(
        folder, ROWS
    )
