"""Data kind `text2text:PATH`: texts, and the text that each is to be answered with."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from coformer_compiler.data.table import find_table, read_columns
from coformer_compiler.data.text import SPLITS, splits_from
from coformer_compiler.data.texts import Texts, TextSplits
from coformer_compiler.tasks import TEXT_TO_TEXT
from coformer_runtime.errors import CoformerError

COLUMNS = ("source", "target")


def read_text2text(location: str, where: str) -> TextSplits:
    """Reads TSV, JSONL or parquet tables with the columns `source` and `target`.

    PATH is one table, of which validation and test split are held out, or a folder with `train`, `validation` and
    `test`; a split without a file is held out from the training texts.

    Raises:
        CoformerError: no such file, a missing column.
    """
    path = Path(location).expanduser()
    if not location or not path.exists():
        raise CoformerError(
            f"there is no file or folder '{location}'",
            where,
            "name a .tsv, .jsonl or .parquet file with the columns source and target",
        )
    tables = {"train": path}
    if path.is_dir():
        found = {split: find_table(path, names) for split, names in SPLITS.items()}
        if found["train"] is None:
            raise CoformerError(f"'{path}' holds no train.tsv", where, "put train.tsv, .jsonl or .parquet there")
        tables = {split: table for split, table in found.items() if table is not None}
    return splits_from({split: _texts(table, where) for split, table in tables.items()}, (), TEXT_TO_TEXT)


def _texts(path: Path, where: str) -> Texts:
    rows = read_columns(path, COLUMNS, where)
    return Texts(tuple(row[0] for row in rows), tuple(row[1] for row in rows), np.zeros(len(rows), np.float32))
