"""Data kind `corpus:PATH`: running text, cut into blocks as long as the model's sequences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from coformer_compiler.data.dataset import Split, Splits, splits_of
from coformer_compiler.data.table import ENCODING
from coformer_compiler.data.text import SPLITS
from coformer_compiler.data.texts import HELD_OUT
from coformer_compiler.data.tokenizer import Tokenizer
from coformer_compiler.tasks import LANGUAGE
from coformer_runtime.errors import CoformerError


def read_corpus(location: str, where: str, tokenizer: Tokenizer) -> Splits:
    """Blocks of text files in UTF-8.

    PATH is one file, or a folder. Of a folder with train.txt, the files `train`, `validation` and `test` are the
    splits; all .txt files of another folder are the documents of one text, in the order of their names. What has no
    file of its own is the end of the training text: test last, validation before it.

    Raises:
        CoformerError: no such file, one that is not UTF-8, too little text for a block of each split.
    """
    path = Path(location).expanduser()
    if not location or not path.exists():
        raise CoformerError(f"there is no file or folder '{location}'", where, "name a text file or a folder of them")
    given = {
        split: [file for file in (path / f"{name}.txt" for name in names) if file.is_file()][:1]
        for split, names in SPLITS.items()
    }
    if not given["train"]:
        files = [path] if path.is_file() else sorted(path.rglob("*.txt"))
        if not files:
            raise CoformerError(f"'{path}' holds no .txt file", where, "put text files there")
        given = {"train": files, "validation": [], "test": []}
    blocks = {split: _blocks(files, where, tokenizer) for split, files in given.items() if files}
    missing = [split for split in ("test", "validation") if split not in blocks]
    size = round(HELD_OUT * len(blocks["train"]))
    for split in missing:
        train = blocks["train"]
        blocks[split], blocks["train"] = train[len(train) - size :], train[: len(train) - size]
    for split, found in blocks.items():
        if not len(found):
            raise CoformerError(
                f"too little text: the {split} split has no block of {tokenizer.length} tokens",
                where,
                "give more text, or set model.options.length lower",
            )
    made = {split: _split(found) for split, found in blocks.items()}
    return splits_of(made["train"], made["validation"], made["test"], ())


def _blocks(files: Sequence[Path], where: str, tokenizer: Tokenizer) -> np.ndarray:
    """Token numbers `(blocks, length + 1)`; the last of a block is the first of the next."""
    end = tokenizer.end
    numbers: list[int] = []
    for file in files:
        try:
            text = file.read_text(encoding=ENCODING)
        except (OSError, UnicodeDecodeError) as error:
            raise CoformerError(f"'{file}' cannot be read ({error})", where, "give text files in UTF-8") from error
        numbers += [*tokenizer.running(text), *([] if end is None else [end])]
    length = tokenizer.length
    count = max(0, (len(numbers) - 1) // length)
    rows = np.arange(count)[:, None] * length + np.arange(length + 1)
    return np.asarray(numbers, np.int32)[rows] if count else np.zeros((0, length + 1), np.int32)


def _split(blocks: np.ndarray) -> Split:
    inputs, labels = np.ascontiguousarray(blocks[:, :-1]), np.ascontiguousarray(blocks[:, 1:].astype(np.int64))
    return Split(inputs, labels, LANGUAGE)
