"""Data kind `sentences:PATH`: texts without labels, to learn a teacher's embeddings on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from coformer_compiler.data.table import ENCODING, find_table, read_columns
from coformer_compiler.data.text import SPLITS, splits_from
from coformer_compiler.data.texts import Texts, TextSplits
from coformer_compiler.tasks import EMBEDDING
from coformer_runtime.errors import CoformerError


def read_sentences(location: str, where: str, pairs: bool) -> TextSplits:
    """Reads a text file of one sentence a line, or the column `text` of a TSV or parquet table, or a folder of tables.

    The folder holds `train`, and may hold `validation` and `test`; what is missing is held out from the training texts.

    Raises:
        CoformerError: no such file, no column `text`, or a model that was imported for pairs.
    """
    if pairs:
        raise CoformerError("sentences are single, the model takes pairs", where, "leave model.options.pairs away")
    path = Path(location).expanduser()
    if not location or not path.exists():
        raise CoformerError(f"there is no file or folder '{location}'", where, "name a .txt, .tsv or .parquet file")
    if path.is_dir():
        found = {split: find_table(path, names) for split, names in SPLITS.items()}
        if found["train"] is None:
            raise CoformerError(f"'{path}' holds no train.tsv", where, "put train.tsv or train.parquet there")
        tables = {split: table for split, table in found.items() if table is not None}
    else:
        tables = {"train": path}
    return splits_from({split: _texts(table, where) for split, table in tables.items()}, (), EMBEDDING)


def _texts(path: Path, where: str) -> Texts:
    if path.suffix == ".txt":
        try:
            lines = path.read_text(encoding=ENCODING).splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise CoformerError(f"'{path}' cannot be read ({error})", where, "give a text file in UTF-8") from error
        texts = tuple(line for line in lines if line.strip())
    else:
        texts = tuple(text for (text,) in read_columns(path, ("text",), where))
    return Texts(texts, None, np.zeros(len(texts), np.float32))
