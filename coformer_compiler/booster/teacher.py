"""The teacher's outputs on the training split: computed once, kept on disk, read by the batch."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from coformer_compiler.booster.batches import Lessons, in_order, view_in_order
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
            _write_outputs(teacher, split, options, partial, ranks.device, progress, with_tokens=with_tokens)
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
    teacher: Transformer,
    split: Split,
    options: BoosterOptions,
    folder: Path,
    device: torch.device,
    progress: Progress,
    *,
    with_tokens: bool,
) -> None:
    views = view_count(options)
    each = (teacher.spec.texts.tokens,) if teacher.spec.pool.kind == "causal" else ()
    features, logits = (
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float32, (views, len(split), *each, width))
        for name, width in (("features", teacher.spec.features), ("logits", teacher.spec.classes))
    )
    tokens = _TokenFile(teacher, split, folder, views) if with_tokens else None
    with progress.stage("teacher's outputs", views * len(split), unit="sample") as stage:
        for view in range(views):
            for rows, inputs in view_in_order(split, view, options):
                if tokens is None:
                    found = teacher.features(inputs.to(device))
                else:
                    seen = averaged(teacher, inputs.to(device))
                    tokens.write(view, rows, seen.tokens)
                    found = seen.means()
                features[view, rows], logits[view, rows] = found.cpu().numpy(), teacher.head(found).cpu().numpy()
                stage.advance(len(inputs))
    features.flush()
    logits.flush()
    if tokens is not None:
        tokens.map.flush()


class _TokenFile:
    """What the features are means of: texts are of unlike lengths, so all tokens stand one after another."""

    def __init__(self, teacher: Transformer, split: Split, folder: Path, views: int) -> None:
        lengths = torch.cat([lengths_of(teacher, inputs) for _, inputs in in_order(split, torch.device("cpu"))])
        self.starts = np.concatenate([[0], lengths.numpy().cumsum()])
        np.save(folder / "starts.npy", self.starts)
        shape = (views, int(self.starts[-1]), teacher.spec.features)
        self.map = np.lib.format.open_memmap(folder / "tokens.npy", "w+", np.float16, shape)

    def write(self, view: int, rows: slice, tokens: torch.Tensor) -> None:
        first, last = self.starts[rows.start], self.starts[min(rows.stop, len(self.starts) - 1)]
        self.map[view, first:last] = tokens.cpu().numpy()
