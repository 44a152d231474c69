"""The teacher's outputs on the training split: computed once, kept on disk, read by the batch."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coformer_compiler.booster.batches import Lessons, view_in_order
from coformer_compiler.booster.options import BoosterOptions
from coformer_compiler.booster.ranks import Ranks
from coformer_compiler.booster.views import view_count
from coformer_compiler.data.dataset import Split, digest_of
from coformer_compiler.model.averaged import averaged, averages, lengths_of
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
        options: for the views, and for whether tokens are kept.
        digest: of teacher and split.
        workdir: visible to all processes.
        ranks: process 0 computes, the others wait.
        progress: shows a stage where something is computed.

    Raises:
        CoformerError: a process does not see what process 0 wrote; tokens are asked for of a model whose features are
            no mean of tokens.
    """
    kind = "" if options.augmentation == "none" else f"-{options.augmentation}-{options.views}-{options.seed}"
    with_tokens = options.token_loss > 0 and options.joint_steps > 0
    if with_tokens and not averages(teacher.spec.pool):
        raise CoformerError(
            f"token_loss = {options.token_loss:g} compares tokens before they are averaged, and this model's features "
            "are no mean of tokens",
            "boost.token_loss",
            "set it to 0",
        )
    folder = workdir / f"teacher-{digest[:16]}{kind}{'-tokens' if with_tokens else ''}"
    if ranks.first and not folder.exists():
        with _partial(folder) as partial:
            if with_tokens:
                _write_tokens(teacher, split, options, partial, ranks.device, progress)
            else:
                _write_outputs(teacher, split, options, partial, ranks.device, progress)
    ranks.barrier()
    names = ("features", "logits", *(("tokens", "starts") if with_tokens else ()))
    try:
        return Lessons(split, *(np.load(folder / f"{name}.npy", mmap_mode="r") for name in names))
    except (OSError, ValueError) as error:
        raise CoformerError(
            f"the teacher's outputs cannot be read ({error})",
            str(folder),
            "remove this folder, and put it on a disk that all processes share",
        ) from error


@contextmanager
def _partial(folder: Path) -> Iterator[Path]:
    """A folder to write to, which gets its name when all of it is there."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    partial.rename(folder)


@torch.no_grad()
def _write_outputs(
    teacher: Transformer, split: Split, options: BoosterOptions, folder: Path, device: torch.device, progress: Progress
) -> None:
    each = (teacher.spec.texts.tokens,) if teacher.spec.pool.kind == "causal" else ()
    features, logits = _outputs(teacher, split, options, folder, each)
    with progress.stage("teacher's outputs", len(features) * len(split), unit="sample") as stage:
        for view in range(len(features)):
            for rows, inputs in view_in_order(split, view, options):
                found = teacher.features(inputs.to(device))
                features[view, rows], logits[view, rows] = found.cpu().numpy(), teacher.head(found).cpu().numpy()
                stage.advance(len(inputs))
    features.flush()
    logits.flush()


@torch.no_grad()
def _write_tokens(
    teacher: Transformer, split: Split, options: BoosterOptions, folder: Path, device: torch.device, progress: Progress
) -> None:
    """`_write_outputs`, and beside it what the features are means of, in half precision."""
    lengths = torch.cat([lengths_of(teacher, inputs) for _, inputs in view_in_order(split, 0, options)])
    starts = np.concatenate([[0], lengths.cpu().numpy().cumsum()])
    np.save(folder / "starts.npy", starts)
    features, logits = _outputs(teacher, split, options, folder, ())
    shape = (len(features), int(starts[-1]), teacher.spec.features)
    tokens = np.lib.format.open_memmap(folder / "tokens.npy", "w+", np.float16, shape)
    with progress.stage("teacher's outputs", len(features) * len(split), unit="sample") as stage:
        for view in range(len(features)):
            for rows, inputs in view_in_order(split, view, options):
                found = averaged(teacher, inputs.to(device))
                means, here = found.means(), slice(starts[rows.start], starts[min(rows.stop, len(split))])
                features[view, rows], logits[view, rows] = means.cpu().numpy(), teacher.head(means).cpu().numpy()
                tokens[view, here] = found.tokens.cpu().numpy()
                stage.advance(len(inputs))
    for each in (features, logits, tokens):
        each.flush()


def _outputs(
    teacher: Transformer, split: Split, options: BoosterOptions, folder: Path, each: tuple[int, ...]
) -> tuple[np.memmap[Any, np.dtype[np.float32]], np.memmap[Any, np.dtype[np.float32]]]:
    """Empty maps for features and logits, `(views, samples, *each, width)`."""
    views = view_count(options)
    features, logits = (
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float32, (views, len(split), *each, width))
        for name, width in (("features", teacher.spec.features), ("logits", teacher.spec.classes))
    )
    return features, logits
