"""The teacher's outputs on the training split: computed once, kept on disk, read by the batch."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import torch

from coformer_compiler.booster.batches import Lessons, view_in_order
from coformer_compiler.booster.options import BoosterOptions
from coformer_compiler.booster.ranks import Ranks
from coformer_compiler.booster.views import view_count
from coformer_compiler.data.dataset import Split, digest_of
from coformer_compiler.model.transformer import Transformer
from coformer_compiler.progress import Progress
from coformer_runtime.errors import CoformerError


def digest_of_model(model: Transformer) -> str:
    """The sha256 of all weights and their names."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        if model.mapped is not None:
            model.mapped.release([tensor])
    return digest.hexdigest()


def digest_of_split(split: Split) -> str:
    """The sha256 of all inputs and labels."""
    return digest_of((split,), ())


def lessons_from_teacher(
    teacher: Transformer,
    split: Split,
    options: BoosterOptions,
    digest: str,
    workdir: Path,
    ranks: Ranks,
    progress: Progress,
) -> Lessons:
    """Returns what `workdir` holds for this teacher and split, and computes it where it holds nothing.

    Args:
        teacher: on the device of `ranks`.
        split: the training split.
        options: for the views.
        digest: of teacher and split.
        workdir: visible to all processes.
        ranks: process 0 computes, the others wait.
        progress: shows a stage where something is computed.

    Raises:
        CoformerError: a process does not see what process 0 wrote.
    """
    kind = "" if options.augmentation == "none" else f"-{options.augmentation}-{options.views}-{options.seed}"
    folder = workdir / f"teacher-{digest[:16]}{kind}"
    if ranks.first and not folder.exists():
        _write_outputs(teacher, split, options, folder, ranks.device, progress)
    ranks.barrier()
    try:
        features, logits = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("features", "logits"))
    except (OSError, ValueError) as error:
        raise CoformerError(
            f"the teacher's outputs cannot be read ({error})",
            str(folder),
            "remove this folder, and put it on a disk that all processes share",
        ) from error
    return Lessons(split, features, logits)


@torch.no_grad()
def _write_outputs(
    teacher: Transformer,
    split: Split,
    options: BoosterOptions,
    folder: Path,
    device: torch.device,
    progress: Progress,
) -> None:
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    views = view_count(options)
    each = (teacher.spec.texts.tokens,) if teacher.spec.pool.kind == "causal" else ()
    features, logits = (
        np.lib.format.open_memmap(partial / f"{name}.npy", "w+", np.float32, (views, len(split), *each, width))
        for name, width in (("features", teacher.spec.features), ("logits", teacher.spec.classes))
    )
    with progress.stage("teacher's outputs", views * len(split), unit="sample") as stage:
        for view in range(views):
            for rows, inputs in view_in_order(split, view, options):
                found = teacher.features(inputs.to(device))
                features[view, rows], logits[view, rows] = found.cpu().numpy(), teacher.head(found).cpu().numpy()
                stage.advance(len(inputs))
    features.flush()
    logits.flush()
    partial.rename(folder)
