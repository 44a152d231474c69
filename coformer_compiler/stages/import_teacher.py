"""Stage "import": a checkpoint to the canonical transformer, proved equal to the original."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from coformer_compiler.artifact import Artifact, Store, file_digest
from coformer_compiler.frontends import ModelSource, import_model
from coformer_compiler.model.checkpoint import load_transformer, save_transformer
from coformer_compiler.model.transformer import Transformer

NAME = "teacher.safetensors"


def import_teacher(store: Store, source: ModelSource) -> Artifact:
    """The teacher as `teacher.safetensors`."""
    options = {**asdict(source), "checkpoint": _checkpoint_digests(source.checkpoint)}

    def make(folder: Path, _work: Path) -> None:
        save_transformer(folder / NAME, import_model(source))

    return store.stage("import", (), options, make)


def load_teacher(artifact: Artifact) -> Transformer:
    """The imported model."""
    return load_transformer(artifact.path / NAME)


def _checkpoint_digests(path: Path | None) -> dict[str, str] | None:
    """Digests by file name of a checkpoint file or hub folder; a missing file is for the importer to report."""
    if path is None or not path.exists():
        return None
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.is_file())
    return {file.name: file_digest(file) for file in files}
