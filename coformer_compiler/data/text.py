"""Data kind `text:PATH`: texts, or pairs of texts, with the name of their class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from coformer_compiler.data.table import find_table, read_columns
from coformer_compiler.data.texts import Texts, TextSplits, held_out_from
from coformer_compiler.tasks import CLASSIFICATION, Task
from coformer_runtime.errors import CoformerError

SPLITS = {"train": ("train",), "validation": ("validation", "dev", "val"), "test": ("test",)}
COLUMNS, PAIR_COLUMNS = ("text", "label"), ("text", "text2", "label")


def read_text(location: str, where: str, pairs: bool) -> TextSplits:
    """Reads TSV or parquet tables with the columns `text`, `label` and, for pairs, `text2`.

    PATH is one table, of which validation and test split are held out, or a folder with `train`, `validation` and
    `test`; a split without a file is held out from the training texts. Classes are the sorted labels of the training
    texts.

    Raises:
        CoformerError: no such file, a missing column, a label that the training texts do not have.
    """
    path, columns = Path(location).expanduser(), PAIR_COLUMNS if pairs else COLUMNS
    if not location or not path.exists():
        raise CoformerError(f"there is no file or folder '{location}'", where, "name a .tsv or .parquet file")
    if path.is_file():
        rows = {"train": read_columns(path, columns, where)}
    else:
        found = {split: find_table(path, names) for split, names in SPLITS.items()}
        if found["train"] is None:
            raise CoformerError(f"'{path}' holds no train.tsv", where, "put train.tsv or train.parquet there")
        rows = {split: read_columns(table, columns, where) for split, table in found.items() if table is not None}
    names = tuple(sorted({row[-1] for row in rows["train"]}))
    return splits_from({split: texts_from_rows(part, names, where) for split, part in rows.items()}, names)


def texts_from_rows(rows: Sequence[tuple[str, ...]], class_names: Sequence[str], where: str) -> Texts:
    """Rows (text, …, label) as texts.

    Raises:
        CoformerError: a label that is none of the class names.
    """
    number_of = {name: number for number, name in enumerate(class_names)}
    for number, row in enumerate(rows):
        if row[-1] not in number_of:
            known = ", ".join(class_names[:12]) + (" …" if len(class_names) > 12 else "")
            raise CoformerError(
                f"row {number + 1} has the unknown label '{row[-1]}': '{row[0][:60]}'", where, f"known are {known}"
            )
    labels = np.array([number_of[row[-1]] for row in rows], np.int64)
    first = tuple(row[0] for row in rows)
    return Texts(first, tuple(row[1] for row in rows) if rows and len(rows[0]) == 3 else None, labels)


def splits_from(given: dict[str, Texts], class_names: tuple[str, ...], task: Task = CLASSIFICATION) -> TextSplits:
    """The three splits; those that are not given are held out from the training texts."""
    missing = [name for name in ("test", "validation") if name not in given]
    *held_out, train = held_out_from(given["train"], len(missing)) if missing else [given["train"]]
    given = {**given, **dict(zip(missing, held_out, strict=True)), "train": train}
    return TextSplits(given["train"], given["validation"], given["test"], class_names, task)
