"""Data kinds `glue-TASK:DIR`: the nine tasks of GLUE, from its TSV files or from parquet files of the hub.

The test sets of GLUE have no labels, so the development set is the test split, and the validation split is held out
from the training set.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from coformer_compiler.data.table import find_table, read_whole_rows
from coformer_compiler.data.text import splits_from, texts_from_rows
from coformer_compiler.data.texts import Texts, TextSplits
from coformer_compiler.tasks import CLASSIFICATION, REGRESSION, Task
from coformer_compiler.tasks.metrics import ACCURACY, F1, MATTHEWS
from coformer_runtime.errors import CoformerError


@dataclass(frozen=True)
class GlueTask:
    """How one task's files look.

    Attributes:
        columns: of the texts and the label, in TSV files.
        hub: the same in parquet files.
        labels: in TSV files, in the order of their classes; none for numbers.
        task: with the task's own metrics.
        test: names of the file that is the test split.
        header: columns of TSV files that have no line for them.
    """

    columns: tuple[str, ...]
    hub: tuple[str, ...]
    labels: tuple[str, ...]
    task: Task = CLASSIFICATION
    test: tuple[str, ...] = ("dev", "validation")
    header: tuple[str, ...] | None = None


PAIR = ("sentence1", "sentence2", "label")
TWO, ENTAILED = ("0", "1"), ("entailment", "not_entailment")
NLI = ("entailment", "neutral", "contradiction")
WITH_F1 = replace(CLASSIFICATION, metrics=(ACCURACY, F1))
WITH_MATTHEWS = replace(CLASSIFICATION, metrics=(MATTHEWS, ACCURACY))
MNLI = ("sentence1", "sentence2", "gold_label")
HUB_MNLI = ("premise", "hypothesis", "label")

TASKS: dict[str, GlueTask] = {
    "cola": GlueTask(
        ("sentence", "label"),
        ("sentence", "label"),
        TWO,
        WITH_MATTHEWS,
        header=("source", "label", "star", "sentence"),
    ),
    "sst2": GlueTask(("sentence", "label"), ("sentence", "label"), TWO),
    "mrpc": GlueTask(("#1 String", "#2 String", "Quality"), PAIR, TWO, WITH_F1),
    "qqp": GlueTask(("question1", "question2", "is_duplicate"), ("question1", "question2", "label"), TWO, WITH_F1),
    "stsb": GlueTask(("sentence1", "sentence2", "score"), PAIR, (), REGRESSION),
    "mnli": GlueTask(MNLI, HUB_MNLI, NLI, test=("dev_matched", "validation_matched")),
    "mnli-mm": GlueTask(MNLI, HUB_MNLI, NLI, test=("dev_mismatched", "validation_mismatched")),
    "qnli": GlueTask(("question", "sentence", "label"), ("question", "sentence", "label"), ENTAILED),
    "rte": GlueTask(PAIR, PAIR, ENTAILED),
    "wnli": GlueTask(PAIR, PAIR, TWO),
}
"""By name; `mnli` is tested on the matched development set, `mnli-mm` on the mismatched one."""


def read_glue(name: str, location: str, where: str, pairs: bool) -> TextSplits:
    """Reads a task's folder.

    Token types of pairs go along where the model was imported for pairs; otherwise the two texts follow each other with
    nothing but the tokenizer's own separator, as models without types have it. Rows without a text or a label, which
    QQP's training set has, are left out as Hugging Face's reader leaves them out, and `notes` say how many.

    Raises:
        CoformerError: no such folder or file, a missing column, an unknown label, a score that is no number.
    """
    glue, folder = TASKS[name], Path(location).expanduser()
    if not location or not folder.is_dir():
        raise CoformerError(f"there is no folder '{location}'", where, "name the folder that holds train.tsv")
    given, notes = dict[str, Texts](), []
    for split, names in (("train", ("train",)), ("test", glue.test)):
        path = find_table(folder, names)
        if path is None:
            raise CoformerError(
                f"'{folder}' holds no {names[0]}.tsv",
                where,
                f"put {' or '.join(f'{each}.tsv' for each in names)} there",
            )
        given[split], left_out = _texts(path, glue, where)
        if left_out:
            rows = len(given[split]) + left_out
            notes.append(f"{left_out} of {rows} rows of '{path.name}' were left out: they lack a text or a label")
    if pairs and given["train"].second is None:
        raise CoformerError(f"{name} has single texts, the model takes pairs", where, "leave model.options.pairs away")
    return replace(splits_from(given, glue.labels, glue.task), notes=tuple(notes))


def _texts(path: Path, glue: GlueTask, where: str) -> tuple[Texts, int]:
    """The texts of a file, and how many of its rows are broken."""
    hub = path.suffix == ".parquet"
    rows, left_out = read_whole_rows(path, glue.hub if hub else glue.columns, where, None if hub else glue.header)
    rows = [row for row in rows if row[-1] not in ("-", "-1")]  # MNLI's pairs on which nobody agreed
    if glue.labels:
        numbers = tuple(str(number) for number in range(len(glue.labels)))
        return texts_from_rows(rows, numbers if hub else glue.labels, where), left_out
    labels = np.empty(len(rows), np.float32)
    for number, row in enumerate(rows):
        try:
            labels[number] = float(row[-1])
        except ValueError as error:
            raise CoformerError(
                f"row {number + 1} has the score '{row[-1]}', which is no number", where, "correct the file"
            ) from error
    return Texts(tuple(row[0] for row in rows), tuple(row[1] for row in rows), labels), left_out


KINDS: dict[str, Callable[[str, str, bool], TextSplits]] = {
    f"glue-{name}": functools.partial(read_glue, name) for name in TASKS
}
"""Data kinds by name."""
