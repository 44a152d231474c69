"""From `data.source` in the configuration to a data set."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from coformer_compiler.data.cifar100 import read_cifar100
from coformer_compiler.data.corpus import read_corpus
from coformer_compiler.data.dataset import DataSet, Split, Splits, splits_of, stratified_order
from coformer_compiler.data.digits import read_digits
from coformer_compiler.data.glue import KINDS as GLUE_KINDS
from coformer_compiler.data.glyphs import read_glyphs
from coformer_compiler.data.imagefolder import read_imagefolder
from coformer_compiler.data.npz import read_npz
from coformer_compiler.data.request import Request
from coformer_compiler.data.sentences import read_sentences
from coformer_compiler.data.text import read_text
from coformer_compiler.data.text2text import read_text2text
from coformer_compiler.data.texts import Texts, TextSplits
from coformer_compiler.data.tokenizer import Tokenizer
from coformer_compiler.model.spec import BridgeSpec
from coformer_compiler.tasks import CLASSIFICATION, IGNORED, TEXT_TO_TEXT
from coformer_runtime.errors import CoformerError

KINDS: dict[str, Callable[[str, Request], Splits]] = {
    "digits": read_digits,
    "imagefolder": read_imagefolder,
    "glyphs": read_glyphs,
    "npz": read_npz,
    "cifar100": read_cifar100,
}
"""The word before the colon of a source, and the function that reads what follows the colon: images."""

TEXT_KINDS: dict[str, Callable[[str, str, bool], TextSplits]] = {
    "text": read_text,
    "sentences": read_sentences,
    **GLUE_KINDS,
}
"""Likewise, texts: the function takes the location, what error messages name, and whether pairs are wanted."""

WRITTEN_KINDS: dict[str, Callable[[str, str], TextSplits]] = {"text2text": read_text2text}
"""Likewise, texts to read and texts to write, for models with an encoder and a decoder."""

RUNNING_KINDS: dict[str, Callable[[str, str, Tokenizer], Splits]] = {"corpus": read_corpus}
"""Likewise, running text for models that continue it: the tokenizer takes the place of the pairs."""

CALIBRATION = 1024


def load_data(
    source: str,
    *,
    image_size: int | tuple[int, int],
    channels: int,
    seed: int = 0,
    calibration: int = CALIBRATION,
    crop: float = 1.0,
    cache_dir: Path | None = None,
) -> DataSet:
    """Loads a data set and chooses its calibration samples.

    Args:
        source: `KIND` or `KIND:LOCATION`, such as "digits" or "imagefolder:flowers".
        image_size: height and width that the model takes, in pixels; one number for both.
        channels: 1 or 3.
        seed: of the choice of calibration samples. The splits do not depend on it.
        calibration: how many training samples to calibrate on; all where there are fewer.
        crop: share of a photograph's shorter side that the centre crop keeps, timm's `crop_pct`.
        cache_dir: where decoded images are kept; by default `~/.cache/coformer/data`.

    Raises:
        CoformerError: unknown kind, missing or unreadable file, wrong shape, labels out of range, a class or split
            without images.
    """
    kind, location = _kind_of(source, KINDS, "images")
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if height < 1 or width < 1 or channels not in (1, 3):
        raise CoformerError(
            f"the model takes {channels} x {height} x {width}, which is no image",
            f"data.source '{source}'",
            "use a model of 1 or 3 channels and of at least one pixel",
        )
    if calibration < 1:
        raise CoformerError(f"{calibration} samples are too few", "data.calibration", "ask for at least one")
    if not 0 < crop <= 1:
        raise CoformerError(f"{crop} is no share", "data.crop", "give a number above 0, up to 1")
    request = Request(source, height, width, channels, crop, cache_dir or Path.home() / ".cache" / "coformer" / "data")
    splits = KINDS[kind](location, request)
    check_splits(splits, request.where)
    return _calibrated(source, splits, seed, calibration)


def load_texts(
    source: str,
    tokenizer: Tokenizer,
    *,
    seed: int = 0,
    calibration: int = CALIBRATION,
    truncate: bool = False,
) -> DataSet:
    """Loads a data set of texts as token numbers, and chooses its calibration samples.

    Args:
        source: `KIND:LOCATION`, such as "text:reviews.tsv".
        tokenizer: the model's; it says how long a text may be, and whether texts come in pairs.
        seed: of the choice of calibration samples. The splits do not depend on it.
        calibration: how many training samples to calibrate on; all where there are fewer.
        truncate: cut texts that are too long, and say how many, instead of refusing them.

    Raises:
        CoformerError: unknown kind, missing or unreadable file, a missing column, an unknown label, a text that is too
            long.
    """
    kind, location = _kind_of(source, TEXT_KINDS, "texts")
    if calibration < 1:
        raise CoformerError(f"{calibration} samples are too few", "data.calibration", "ask for at least one")
    where = f"data.source '{source}'"
    texts = TEXT_KINDS[kind](location, where, tokenizer.rows == 2)
    encoded = [tokenizer.encode(part.first, part.second, truncate=truncate) for part in splits_of_texts(texts)]
    train, validation, test = (
        Split(each.ids, part.labels, texts.task) for each, part in zip(encoded, splits_of_texts(texts), strict=True)
    )
    splits = splits_of(train, validation, test, texts.class_names)
    check_splits(splits, where)
    cut = sum(each.cut for each in encoded)
    count = sum(len(part) for part in splits_of_texts(texts))
    notes = (f"{cut} of {count} texts were cut to {tokenizer.length} tokens",) if cut else ()
    made = _calibrated(source, splits, seed, calibration)
    return replace(made, tokenizer=tokenizer.content, notes=(*texts.notes, *notes))


def load_running_text(source: str, tokenizer: Tokenizer, *, seed: int = 0, calibration: int = CALIBRATION) -> DataSet:
    """Loads running text as blocks of token numbers, each token's label the next one, and chooses calibration blocks.

    Args:
        source: `KIND:LOCATION`, such as "corpus:books".
        tokenizer: the model's; it says how long a block is.
        seed: of the choice of calibration blocks. The splits do not depend on it.
        calibration: how many training blocks to calibrate on; all where there are fewer.

    Raises:
        CoformerError: unknown kind, missing or unreadable file, too little text.
    """
    kind, location = _kind_of(source, RUNNING_KINDS, "running text")
    if calibration < 1:
        raise CoformerError(f"{calibration} blocks are too few", "data.calibration", "ask for at least one")
    where = f"data.source '{source}'"
    splits = RUNNING_KINDS[kind](location, where, tokenizer)
    check_splits(splits, where)
    made = _calibrated(source, splits, seed, calibration)
    return replace(made, tokenizer=tokenizer.content, words=tokenizer.pad)


def load_text2text(
    source: str,
    tokenizer: Tokenizer,
    bridge: BridgeSpec,
    *,
    seed: int = 0,
    calibration: int = CALIBRATION,
    truncate: bool = False,
) -> DataSet:
    """Loads texts with the texts that answer them, teacher-forced, and chooses calibration samples.

    An input is the text that is read, then what has been written: the word that texts begin with and all of the target
    but its last token. The labels are the target's tokens, `IGNORED` behind them.

    Args:
        source: `KIND:LOCATION`, such as "text2text:dates.tsv".
        tokenizer: the model's; it says how long a text may be that is read.
        bridge: the model's; it says how long a text may be that is written, and how it begins.
        seed: of the choice of calibration samples. The splits do not depend on it.
        calibration: how many training samples to calibrate on; all where there are fewer.
        truncate: cut texts that are too long, and say how many, instead of refusing them.

    Raises:
        CoformerError: unknown kind, missing or unreadable file, a missing column, a text that is empty or too long.
    """
    kind, location = _kind_of(source, WRITTEN_KINDS, "texts with their answers")
    if calibration < 1:
        raise CoformerError(f"{calibration} samples are too few", "data.calibration", "ask for at least one")
    where, text = f"data.source '{source}'", bridge.stem
    made, cut, count = list[Split](), 0, 0
    for part in splits_of_texts(WRITTEN_KINDS[kind](location, where)):
        read = tokenizer.encode(part.first, truncate=truncate)
        targets, long = tokenizer.written(part.second or (), text.length, truncate=truncate)
        written = np.full((len(part), text.length), text.pad, np.int32)
        labels = np.full((len(part), text.length), IGNORED, np.int64)
        for row, target in enumerate(targets):
            written[row, : len(target)] = [bridge.start, *target[:-1]]
            labels[row, : len(target)] = target
        made.append(Split(np.concatenate([read.ids, written], 1), labels, TEXT_TO_TEXT))
        cut, count = cut + read.cut + long, count + 2 * len(part)
    train, validation, test = made
    splits = splits_of(train, validation, test, ())
    check_splits(splits, where)
    notes = (f"{cut} of {count} texts were cut to {tokenizer.length} and {text.length} tokens",) if cut else ()
    found = _calibrated(source, splits, seed, calibration)
    return replace(found, tokenizer=tokenizer.content, words=text.pad, notes=notes)


def splits_of_texts(texts: TextSplits) -> tuple[Texts, Texts, Texts]:
    """Training, validation and test split."""
    return texts.train, texts.validation, texts.test


def _kind_of(source: str, kinds: Mapping[str, object], read: str) -> tuple[str, str]:
    kind, _, location = source.partition(":")
    where = f"data.source '{source}'"
    if kind not in kinds and any(kind in others for others in (KINDS, TEXT_KINDS, RUNNING_KINDS, WRITTEN_KINDS)):
        part = ", or set model.options.part = 'encoder'" if kinds is WRITTEN_KINDS else ""
        raise CoformerError(
            f"the model reads {read}, '{kind}' holds something else", where, f"choose one of {', '.join(kinds)}{part}"
        )
    if kind not in kinds:
        near = difflib.get_close_matches(kind, kinds, n=1, cutoff=0.5)
        mend = f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(kinds)}"
        raise CoformerError(f"unknown data kind '{kind}'", where, mend)
    return kind, location


def _calibrated(source: str, splits: Splits, seed: int, calibration: int) -> DataSet:
    classes = splits.train.labels if splits.class_names else np.zeros(len(splits.train), np.int64)
    chosen = stratified_order(classes, seed)[:calibration]
    parts = [splits.sha256.encode(), chosen.astype("<i8").tobytes()]
    task = splits.train.task
    if task != CLASSIFICATION:  # what is chosen by another metric is another build
        parts.append(repr([task.name, *(metric.name for metric in task.metrics)]).encode())
    digest = hashlib.sha256(b"".join(parts)).hexdigest()
    return DataSet(
        name=source,
        train=splits.train,
        validation=splits.validation,
        calibration=replace(
            splits.train, inputs=np.asarray(splits.train.inputs[chosen]), labels=splits.train.labels[chosen]
        ),
        test=splits.test,
        class_names=splits.class_names,
        sha256=digest,
    )


def check_splits(splits: Splits, where: str) -> None:
    """Refuses what no kind may deliver.

    Raises:
        CoformerError: labels out of range, an empty split, or a class without training samples.
    """
    classes = len(splits.class_names)
    named = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    for name, split in named.items():
        if len(split) == 0:
            raise CoformerError(f"the {name} split is empty", where, "add samples: each split needs some")
        if not splits.class_names:
            continue
        low, high = int(split.labels.min()), int(split.labels.max())
        if low < 0 or high >= classes:
            raise CoformerError(
                f"the labels of the {name} split run from {low} to {high}, there are {classes} classes",
                where,
                f"number the classes from 0 to {classes - 1}, or give a name for each",
            )
    if not splits.class_names:
        return
    count = np.bincount(splits.train.labels, minlength=classes)
    empty = [splits.class_names[label] for label in np.flatnonzero(count == 0)]
    if empty:
        raise CoformerError(
            f"{len(empty)} of {classes} classes have no training samples, the first is '{empty[0]}'",
            where,
            "add samples of that class, or number the others without a gap",
        )
