"""Texts as data: tables, splits, token numbers, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from coformer_compiler.data import DataSet, load_data, load_texts
from coformer_compiler.data.tokenizer import Tokenizer, read_tokenizer
from coformer_compiler.model.spec import TokenStemSpec
from coformer_runtime.errors import CoformerError
from tests.compiler.texts import WORDS, rows, tokenizer_json, write_tsv

STEM = TokenStemSpec(10, 50, 0, 8)
PAIRS = TokenStemSpec(16, 50, 0, 8, types=2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tokenizer.json").write_text(tokenizer_json())
    return tmp_path


def load(folder: Path, source: str, stem: TokenStemSpec = STEM, **options: bool) -> DataSet:
    return load_texts(source, read_tokenizer(folder, stem), calibration=16, **options)


def refused(folder: Path, source: str, stem: TokenStemSpec = STEM) -> str:
    with pytest.raises(CoformerError) as caught:
        load(folder, source, stem)
    return str(caught.value)


def test_one_table_is_split(folder: Path) -> None:
    write_tsv(folder / "a.tsv", ("text", "label"), rows(60))
    data = load(folder, f"text:{folder / 'a.tsv'}")
    assert data.class_names == ("games", "libs", "mail")
    assert [len(split) for split in (data.train, data.validation, data.test)] == [42, 9, 9]
    assert data.train.inputs.dtype == np.int32
    assert data.train.inputs.shape == (42, 10)
    assert len(data.calibration) == 16
    again = load(folder, f"text:{folder / 'a.tsv'}")
    assert again.sha256 == data.sha256
    assert data.tokenizer is not None and data.notes == ()


def test_token_numbers_by_hand(folder: Path) -> None:
    tokenizer = read_tokenizer(folder, STEM)
    encoded = tokenizer.encode(["game of strategy", "unheard mail"])
    number = {word: 4 + n for n, word in enumerate(WORDS)}
    assert encoded.ids.tolist() == [
        [2, number["game"], number["of"], number["strategy"], 3, 0, 0, 0, 0, 0],
        [2, 1, number["mail"], 3, 0, 0, 0, 0, 0, 0],
    ]
    assert Tokenizer(tokenizer.content, 1, "here").encode(["game of strategy"]).ids.tolist() == encoded.ids[:1].tolist()


def test_pairs_have_types_in_the_second_row(folder: Path) -> None:
    encoded = read_tokenizer(folder, PAIRS).encode(["game"], ["web mail"])
    assert encoded.ids.shape == (1, 2, 16)
    assert encoded.ids[0, 1].tolist() == [0, 0, 0, 1, 1, 1] + [0] * 10
    write_tsv(folder / "b.tsv", ("text", "text2", "label"), rows(40, pairs=True))
    data = load(folder, f"text:{folder / 'b.tsv'}", PAIRS)
    assert data.train.inputs.shape[1:] == (2, 16)


def test_a_folder_of_tables(folder: Path) -> None:
    for name, count in (("train", 30), ("dev", 9), ("test", 12)):
        write_tsv(folder / "data" / f"{name}.tsv", ("label", "text"), [row[::-1] for row in rows(count)])
    data = load(folder, f"text:{folder / 'data'}")
    assert [len(split) for split in (data.train, data.validation, data.test)] == [30, 9, 12]


def test_parquet(folder: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    content = rows(60)
    table = pyarrow.table({"text": [row[0] for row in content], "label": [row[1] for row in content]})
    parquet.write_table(table, folder / "a.parquet")
    write_tsv(folder / "a.tsv", ("text", "label"), content)
    assert load(folder, f"text:{folder / 'a.parquet'}").sha256 == load(folder, f"text:{folder / 'a.tsv'}").sha256


def test_long_texts_are_refused_or_cut_and_counted(folder: Path) -> None:
    content = [*rows(60), ("game " * 20, "games")]
    write_tsv(folder / "a.tsv", ("text", "label"), content)
    said = refused(folder, f"text:{folder / 'a.tsv'}")
    assert "1 of " in said and "texts are longer than 10 tokens; text " in said
    assert "has 22: 'game game" in said
    assert said.endswith("set model.options.length higher, or data.truncate = true to cut them")
    data = load(folder, f"text:{folder / 'a.tsv'}", truncate=True)
    assert data.notes == ("1 of 61 texts were cut to 10 tokens",)


def test_bad_tables(folder: Path) -> None:
    write_tsv(folder / "a.tsv", ("txt", "label"), rows(60))
    assert "'a.tsv' has no column 'text'; there are txt, label; name the column 'txt' so" in refused(
        folder, f"text:{folder / 'a.tsv'}"
    )
    write_tsv(folder / "data" / "train.tsv", ("text", "label"), rows(30))
    write_tsv(folder / "data" / "test.tsv", ("text", "label"), [("web", "news")])
    said = refused(folder, f"text:{folder / 'data'}")
    assert "row 1 has the unknown label 'news': 'web'; known are games, libs, mail" in said
    (folder / "b.tsv").write_text("text\tlabel\nlonely\n")
    assert "row 1 of 'b.tsv' has 1 columns of 2" in refused(folder, f"text:{folder / 'b.tsv'}")
    assert "there is no file or folder" in refused(folder, f"text:{folder / 'c.tsv'}")
    write_tsv(folder / "d.tsv", ("text", "label"), [*rows(30), (" ", "libs")])
    assert "is empty; give every text at least one word" in refused(folder, f"text:{folder / 'd.tsv'}")


@pytest.mark.parametrize(
    ("pair", "said"), [((" ", "web"), "text 2 is empty"), (("web", " "), "the second text of pair 2 is empty")]
)
def test_a_pair_with_an_empty_text(pair: tuple[str, str], said: str, folder: Path) -> None:
    tokenizer = read_tokenizer(folder, PAIRS)
    with pytest.raises(CoformerError) as caught:
        tokenizer.encode(["game", pair[0]], ["mail", pair[1]])
    assert str(caught.value) == f"tokenizer in {folder}: {said}; give every text at least one word"


def test_images_are_no_texts(folder: Path) -> None:
    assert "the model reads texts, 'digits' holds something else" in refused(folder, "digits")
    assert "unknown data kind 'txt'; did you mean 'text'?" in refused(folder, "txt:a")
    with pytest.raises(CoformerError, match="the model reads images, 'text' holds something else"):
        load_data("text:a.tsv", image_size=8, channels=1)


@pytest.mark.parametrize(
    ("stem", "said"),
    [
        (TokenStemSpec(10, 30522, 0, 8), "the tokenizer has 50 words, the model 30522"),
        (TokenStemSpec(10, 40, 0, 8), "the tokenizer has 50 words, the model 40"),
        (TokenStemSpec(10, 50, 7, 8), "the model's padding is word 7, which the tokenizer calls 'parser'"),
    ],
)
def test_a_tokenizer_of_another_model(stem: TokenStemSpec, said: str, folder: Path) -> None:
    with pytest.raises(CoformerError, match="use the tokenizer that the model was trained with") as caught:
        read_tokenizer(folder, stem)
    assert said in str(caught.value)


def test_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(CoformerError, match="no tokenizer that can be read"):
        read_tokenizer(tmp_path, STEM)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CoformerError, match=r"tokenizer\.json is no tokenizer"):
        read_tokenizer(tmp_path, STEM)
