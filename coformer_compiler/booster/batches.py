"""From samples on disk to what a step computes on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from coformer_compiler.booster.losses import Targets
from coformer_compiler.booster.options import BoosterOptions
from coformer_compiler.booster.ranks import Ranks
from coformer_compiler.booster.schedule import Indices, batch_indices, view_indices
from coformer_compiler.booster.views import view_count, view_of
from coformer_compiler.data.dataset import Split

INFERENCE_BATCH = 256
"""Samples in one forward pass without gradients."""


@dataclass(frozen=True)
class Lessons:
    """The training split with the teacher's outputs.

    Attributes:
        split: inputs and labels.
        features: float32 memory map `(views, samples, teacher features)`.
        logits: float32 memory map `(views, samples, classes)`.
        tokens: float16 memory map `(views, tokens of all samples, teacher features)`, what the features are means of;
            None where nobody learns from them.
        starts: int64 `(samples + 1,)`, where each sample's tokens begin.
    """

    split: Split
    features: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32]
    tokens: npt.NDArray[np.float16] | None = None
    starts: npt.NDArray[np.int64] | None = None

    def tokens_of(self, picked: Indices, views: Indices) -> torch.Tensor | None:
        """The tokens of the picked samples, each in its view, one after another, float32."""
        if self.tokens is None or self.starts is None:
            return None
        each = [self.tokens[view, self.starts[n] : self.starts[n + 1]] for n, view in zip(picked, views, strict=True)]
        return torch.from_numpy(np.concatenate(each).astype(np.float32))


@dataclass(frozen=True)
class Batch:
    """This process's part of a step's samples.

    Attributes:
        step: which step of the phase.
        inputs: of the stem, `(batch, …)`.
        targets: labels and teacher logits.
        weights: `(batch,)`, in units of the equal weight 1/M.
        tokens: of the teacher, `(tokens of all samples, teacher features)`; None where nobody learns from them.
    """

    step: int
    inputs: torch.Tensor
    targets: Targets
    weights: torch.Tensor
    tokens: torch.Tensor | None = None


def batch_of_step(
    lessons: Lessons, weights: torch.Tensor, options: BoosterOptions, phase: int, step: int, ranks: Ranks
) -> Batch:
    """The samples of a step: every process draws all of them and takes every `ranks.size`-th."""
    mine = slice(ranks.rank, None, ranks.size)
    samples = len(lessons.split)
    picked = batch_indices(samples, options.batch, options.seed, phase, step)[mine]
    views = view_indices(view_count(options), options.batch, options.seed, phase, step)[mine]
    inputs = view_of(torch.from_numpy(lessons.split.inputs[picked]), picked, views, samples, options)
    device, task = ranks.device, lessons.split.task
    logits, tokens = torch.from_numpy(lessons.logits[views, picked]), lessons.tokens_of(picked, views)
    labels = logits if task.labels_from_teacher else torch.from_numpy(lessons.split.labels[picked])
    return Batch(
        step,
        inputs.to(device),
        Targets(labels.to(device), logits.to(device), task),
        (weights[picked] * samples).float().to(device),
        None if tokens is None else tokens.to(device),
    )


def lessons_in_order(
    lessons: Lessons, options: BoosterOptions, device: torch.device
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """All views of all training samples, in order: (inputs, the teacher's features)."""
    for view in range(view_count(options)):
        for rows, inputs in view_in_order(lessons.split, view, options):
            yield inputs.to(device), torch.from_numpy(np.array(lessons.features[view, rows])).to(device)


def view_in_order(split: Split, view: int, options: BoosterOptions) -> Iterator[tuple[slice, torch.Tensor]]:
    """One view of all samples of the training split, in order: (rows, inputs)."""
    samples = np.arange(len(split))
    for rows, inputs in in_order(split, torch.device("cpu")):
        picked = samples[rows]
        yield rows, view_of(inputs, picked, np.full_like(picked, view), len(split), options)


def in_order(split: Split, device: torch.device) -> Iterator[tuple[slice, torch.Tensor]]:
    """All samples of a split, in order: (rows, inputs on the device)."""
    for start in range(0, len(split), INFERENCE_BATCH):
        rows = slice(start, start + INFERENCE_BATCH)
        # A copy: rows of a memory map are read-only, which torch takes only under protest.
        yield rows, torch.from_numpy(np.array(split.inputs[rows])).to(device)
