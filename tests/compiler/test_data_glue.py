"""GLUE's nine tasks in its own TSV form and in the hub's, and sentences without labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from coformer_compiler.data import DataSet, load_texts
from coformer_compiler.data.glue import TASKS
from coformer_compiler.data.tokenizer import read_tokenizer
from coformer_compiler.model.spec import TokenStemSpec
from coformer_runtime.errors import CoformerError
from tests.compiler.texts import tokenizer_json, write_tsv

STEM = TokenStemSpec(12, 50, 0, 8)


def load(folder: Path, source: str, stem: TokenStemSpec = STEM) -> DataSet:
    (folder / "tokenizer.json").write_text(tokenizer_json())
    return load_texts(source, read_tokenizer(folder, stem), calibration=16)


def refused(folder: Path, source: str, stem: TokenStemSpec = STEM) -> str:
    with pytest.raises(CoformerError) as caught:
        load(folder, source, stem)
    return str(caught.value)


def write_task(folder: Path, name: str, count: int = 40) -> None:
    """The files of a task: an index first, as GLUE has it, then the columns in another order than they are read."""
    glue = TASKS[name]
    columns = glue.header or ("index", glue.columns[-1], *glue.columns[:-1])
    for split, rows in (("train", count), (glue.test[0], count // 2)):
        content = []
        for number in range(rows):
            label = glue.labels[number % len(glue.labels)] if glue.labels else f"{number % 6 * 0.8:.1f}"
            given = {glue.columns[-1]: label} | dict.fromkeys(glue.columns[:-1], f"game {'web ' * (number % 3)}")
            content.append(tuple(given.get(column, str(number)) for column in columns))
        if glue.header:
            (folder / f"{split}.tsv").write_text("\n".join("\t".join(row) for row in content) + "\n")
        else:
            write_tsv(folder / f"{split}.tsv", columns, content)


@pytest.mark.parametrize("name", TASKS)
def test_every_task(name: str, tmp_path: Path) -> None:
    write_task(tmp_path, name)
    data, glue = load(tmp_path, f"glue-{name}:{tmp_path}"), TASKS[name]
    assert [len(split) for split in (data.train, data.validation, data.test)] == [34, 6, 20]
    assert data.task == glue.task
    assert data.class_names == glue.labels
    assert data.outputs == (len(glue.labels) or 1)
    if glue.labels:
        assert data.test.labels[:6].tolist() == [n % len(glue.labels) for n in range(6)]
    else:
        np.testing.assert_allclose(data.test.labels[:6], [0, 0.8, 1.6, 2.4, 3.2, 4.0], rtol=1e-6)
    words = 2 * (len(glue.columns) - 1)  # "game web" and its end, per text
    assert (data.test.inputs[1] != 0).sum() == 1 + words + len(glue.columns) - 1


def test_parquet_files_of_the_hub(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    for split, rows in (("train", 40), ("validation", 12)):
        table = {"sentence1": ["game"] * rows, "sentence2": ["web"] * rows, "label": [n % 2 for n in range(rows)]}
        parquet.write_table(
            pyarrow.table({**table, "idx": list(range(rows))}), tmp_path / f"{split}-00000-of-00001.parquet"
        )
    data = load(tmp_path, f"glue-rte:{tmp_path}")
    assert data.class_names == ("entailment", "not_entailment")
    assert data.test.labels.tolist() == [0, 1] * 6


def test_bad_files(tmp_path: Path) -> None:
    assert "there is no folder 'nowhere'" in refused(tmp_path, "glue-rte:nowhere")
    assert "holds no train.tsv" in refused(tmp_path, f"glue-rte:{tmp_path}")
    write_task(tmp_path, "rte")
    path = tmp_path / "dev.tsv"
    good = path.read_text()
    path.write_text(good.replace("\tentailment", "\tentailed", 1))
    assert "row 1 has the unknown label 'entailed': 'game '" in refused(tmp_path, f"glue-rte:{tmp_path}")
    path.write_text(good.replace("sentence2", "sentence_2", 1))
    said = refused(tmp_path, f"glue-rte:{tmp_path}")
    assert "'dev.tsv' has no column 'sentence2'" in said and "name the column 'sentence_2' so" in said
    write_task(tmp_path, "stsb")
    path.write_text(path.read_text().replace("0.8", "much", 1))
    assert "row 2 has the score 'much', which is no number" in refused(tmp_path, f"glue-stsb:{tmp_path}")
    write_task(tmp_path, "sst2")
    pairs = TokenStemSpec(12, 50, 0, 8, types=2)
    assert "sst2 has single texts, the model takes pairs" in refused(tmp_path, f"glue-sst2:{tmp_path}", pairs)
    assert "unknown data kind 'glue-sts-b'; " not in refused(tmp_path, f"glue-sst:{tmp_path}")


def test_byte_order_marks(tmp_path: Path) -> None:
    """The real train file of MRPC begins with one."""
    write_task(tmp_path, "mrpc")
    want = load(tmp_path, f"glue-mrpc:{tmp_path}").sha256
    for name, old in (("train", "index"), ("dev", "index")):
        path = tmp_path / f"{name}.tsv"
        rows = [line.split("\t") for line in path.read_text().splitlines()]
        assert rows[0][0] == old
        path.write_text("\ufeff" + "".join("\t".join(row[1:]) + "\n" for row in rows))  # the label comes first
        assert path.read_bytes().startswith(b"\xef\xbb\xbfQuality\t")
    assert load(tmp_path, f"glue-mrpc:{tmp_path}").sha256 == want
    lines = "\n".join(f"game of {'web ' * (n % 5)}" for n in range(60))
    (tmp_path / "a.txt").write_text(lines)
    plain = load(tmp_path, f"sentences:{tmp_path / 'a.txt'}").sha256
    (tmp_path / "a.txt").write_text("\ufeff" + lines)
    assert load(tmp_path, f"sentences:{tmp_path / 'a.txt'}").sha256 == plain


def test_broken_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    """As in QQP's training set: rows cut short, and rows without one of the texts."""
    write_task(tmp_path, "qqp")
    clean = load(tmp_path, f"glue-qqp:{tmp_path}")
    assert clean.notes == ()
    path = tmp_path / "train.tsv"
    header, *lines = path.read_text().splitlines()
    assert header == "index\tis_duplicate\tquestion1\tquestion2"
    broken = ["7\t1\tgame", "8", "9\t0\t\tgame", "10\t\tgame\tweb"]
    path.write_text("\n".join([header, broken[0], *lines[:9], *broken[1:], *lines[9:]]) + "\n")
    data = load(tmp_path, f"glue-qqp:{tmp_path}")
    assert data.sha256 == clean.sha256
    assert data.notes == ("4 of 44 rows of 'train.tsv' were left out: they lack a text or a label",)
    path.write_text("\n".join([header, *broken[:2]]) + "\n")
    assert "row 1 of 'train.tsv' has 3 columns of 4" in refused(tmp_path, f"glue-qqp:{tmp_path}")


def test_sentences(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(f"game of {'web ' * (n % 5)}" for n in range(60)) + "\n\n")
    data = load(tmp_path, f"sentences:{tmp_path / 'a.txt'}")
    assert [len(split) for split in (data.train, data.validation, data.test)] == [42, 9, 9]
    assert data.task.labels_from_teacher and data.class_names == ()
    write_tsv(tmp_path / "train.tsv", ("text", "more"), [("game", "x")] * 20)
    assert len(load(tmp_path, f"sentences:{tmp_path}").train) == 14
    pairs = TokenStemSpec(12, 50, 0, 8, types=2)
    assert "sentences are single" in refused(tmp_path, f"sentences:{tmp_path / 'a.txt'}", pairs)
