"""Stage "import": a checkpoint to the canonical transformer, proved equal to the original."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from coformer_compiler.artifact import Artifact, Store, file_digest
from coformer_compiler.data.tokenizer import TOKENIZER, Tokenizer, read_tokenizer
from coformer_compiler.frontends import ModelSource, import_model
from coformer_compiler.frontends.weights import read_folder_config
from coformer_compiler.model.checkpoint import load_transformer, save_transformer
from coformer_compiler.model.spec import TokenStemSpec
from coformer_compiler.model.transformer import Transformer
from coformer_runtime.errors import CoformerError

NAME = "teacher.safetensors"
LABELS = "labels.json"


def import_teacher(store: Store, source: ModelSource) -> Artifact:
    """The teacher as `teacher.safetensors`; beside it the tokenizer of one that reads texts."""
    options = {**asdict(source), "checkpoint": _checkpoint_digests(source.checkpoint)}

    def make(folder: Path, _work: Path) -> None:
        teacher = import_model(source)
        save_transformer(folder / NAME, teacher)
        stem = teacher.stem.spec
        if isinstance(stem, TokenStemSpec) and source.checkpoint is not None:
            tokenizer = read_tokenizer(source.checkpoint, stem)
            (folder / TOKENIZER).write_text(tokenizer.content, encoding="utf-8")
            labels = read_folder_config(source.checkpoint).get("id2label") or {}
            (folder / LABELS).write_text(json.dumps([labels[key] for key in sorted(labels, key=int)]), encoding="utf-8")

    return store.stage("import", (), options, make)


def load_teacher(artifact: Artifact) -> Transformer:
    """The imported model."""
    return load_transformer(artifact.path / NAME)


def tokenizer_of(artifact: Artifact, stem: TokenStemSpec) -> Tokenizer:
    """The imported model's tokenizer."""
    path = artifact.path / TOKENIZER
    return Tokenizer(path.read_text(encoding="utf-8"), stem.types, f"tokenizer {path}")


def require_same_order(artifact: Artifact, class_names: Sequence[str], where: str) -> None:
    """Refuse data whose classes are the teacher's in another order: every answer would be taken for another one.

    Raises:
        CoformerError: telling both orders.
    """
    path = artifact.path / LABELS
    if not path.is_file():
        return
    ours, theirs = ([str(name).casefold() for name in names] for names in (class_names, json.loads(path.read_text())))
    if ours != theirs and sorted(ours) == sorted(theirs):
        raise CoformerError(
            f"the data numbers its classes {', '.join(ours[:6])}, the teacher {', '.join(theirs[:6])}",
            where,
            "put the classifier's rows and id2label of config.json into the data's order",
        )


def _checkpoint_digests(path: Path | None) -> dict[str, str] | None:
    """Digests by file name of a checkpoint file or hub folder; a missing file is for the importer to report."""
    if path is None or not path.exists():
        return None
    if path.is_file():
        return {path.name: file_digest(path)}
    # Files of the folder, and what sentence-transformers keeps one level below.
    files = sorted(file for file in (*path.iterdir(), *path.glob("*/config.json")) if file.is_file())
    return {file.relative_to(path).as_posix(): file_digest(file) for file in files}
