"""What the compiler knows of a data set: inputs, labels, and which of them are for what."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from coformer_compiler.tasks import CLASSIFICATION, Task

Images: TypeAlias = npt.NDArray[np.uint8]
Inputs: TypeAlias = npt.NDArray[np.integer[Any]]
Labels: TypeAlias = npt.NDArray[np.int64] | npt.NDArray[np.float32]


@dataclass(frozen=True)
class Split:
    """Inputs with their labels.

    Attributes:
        inputs: images (samples, channels, height, width) uint8, or token numbers (samples, …, length) int32; an array,
            or a copy-on-write map of a file, of which `inputs[a:b]` reads no more than those rows.
        labels: (samples,) int64 of classes, (samples, tokens) of words; other tasks have float32 labels.
        task: what the labels mean.
    """

    inputs: Inputs
    labels: Labels
    task: Task = CLASSIFICATION

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.labels)


@dataclass(frozen=True)
class Splits:
    """What a data kind delivers: the three splits of a source.

    They never depend on the seed of a build: a teacher has been trained on one training split, and under another one
    it would be tested on what it has seen.

    Attributes:
        train: what the teacher was trained on.
        validation: held out.
        test: held out.
        class_names: one per class, by label.
        sha256: digest of all inputs, labels and class names.
    """

    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]
    sha256: str


@dataclass(frozen=True)
class DataSet:
    """A data set, ready for the compiler.

    Attributes:
        name: the source as the user wrote it, such as "digits".
        train: what the booster learns from.
        validation: what every choice is made by.
        calibration: a stratified part of `train`, for importance and transplant; so is every prefix of it.
        test: what is reported, and nothing else.
        class_names: one per class, by label.
        sha256: digest of all inputs, labels, class names and of the choice of calibration samples.
        tokenizer: the definition of the tokenizer that made the inputs, for texts.
        words: how many words the next token is one of, for running text and texts that are to be written.
        notes: what was done to the samples that somebody should know, a line each.
    """

    name: str
    train: Split
    validation: Split
    calibration: Split
    test: Split
    class_names: tuple[str, ...]
    sha256: str
    tokenizer: str | None = None
    words: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def task(self) -> Task:
        """What the labels mean."""
        return self.train.task

    @property
    def classes(self) -> int:
        """The number of classes; 0 where labels are no classes."""
        return len(self.class_names)

    @property
    def outputs(self) -> int:
        """How many numbers an answer has; of labels that are the teacher's answers, the training split has none."""
        labels = self.validation.labels
        return self.words or self.classes or (1 if labels.ndim == 1 else int(labels.shape[1]))


def stratified_order(labels: Labels, seed: int) -> npt.NDArray[np.int64]:
    """Returns an order of all samples of which every prefix has the classes in their proportions.

    Within each class the samples are shuffled and spread evenly over 0..1; sorting by that position interleaves the
    classes. Cutting the order in pieces therefore gives stratified splits.
    """
    random = np.random.default_rng(seed)
    position = np.empty(len(labels), dtype=np.float64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        position[random.permutation(members)] = (np.arange(len(members)) + random.random()) / len(members)
    return np.argsort(position, kind="stable")


def digest_of(splits: tuple[Split, ...], class_names: tuple[str, ...]) -> str:
    """Returns the sha256 of inputs, labels and class names, reading the inputs piece by piece."""
    digest = hashlib.sha256(repr(class_names).encode())
    for split in splits:
        digest.update(repr(split.inputs.shape).encode())
        kind = "<i8" if np.issubdtype(split.labels.dtype, np.integer) else "<f4"
        digest.update(np.ascontiguousarray(split.labels, dtype=kind).tobytes())
        for start in range(0, len(split), 1024):
            digest.update(np.ascontiguousarray(split.inputs[start : start + 1024]).tobytes())
    return digest.hexdigest()


def splits_of(train: Split, validation: Split, test: Split, class_names: tuple[str, ...]) -> Splits:
    """Returns the splits with their digest."""
    return Splits(train, validation, test, class_names, digest_of((train, validation, test), class_names))
