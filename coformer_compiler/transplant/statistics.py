"""What one pass of the teacher over the calibration set tells: moments, importance, and which tokens matter where.

Everything is a running sum in float64; no activation outlives its batch.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from coformer_compiler.model.bridge import Bridge
from coformer_compiler.model.flow import Block, flow_from, onward
from coformer_compiler.model.mapped import MappedTensors, write_tensors
from coformer_compiler.model.merge import PARTS, Merge
from coformer_compiler.model.residual import Residual
from coformer_compiler.model.transformer import Transformer
from coformer_compiler.tasks import CLASSIFICATION, Task
from coformer_compiler.transplant.basis import plain_normed

IMPORTANCE = ("activation", "taylor")
GRADIENT_SAMPLES = 256
"""Samples that the token weights are taken from; they are averages over samples and settle early."""
GRADIENT_BATCH = 16
"""Samples of one backward pass: it keeps every activation, a gigabyte for this many images in DeiT-B."""


@dataclass(frozen=True)
class Statistics:
    """Statistics of a teacher on its calibration set.

    Attributes:
        moments: one float64 `(d, d)` per block, then one for the final norm: second moment of the plainly normed
            stream, before a merge that of each of the four tokens; padding counts neither here nor below. Where the
            stem has a norm of its own, its input's moment comes first in `stem_moment`.
        stem_moment: see above, or None.
        scores: per residual sub-block, the importance of each unit (head or neuron), `(units,)`.
        token_weights: per block, how much the loss depends on each token of the stream there, `(tokens,)` with mean
            one: mean squared gradient by position. Towards the end of a class-token model the class token has most.
        channel_scores: per stage, the importance of each stream channel, `(d,)`: its mean square over all norms.
        influence: per layer, how much it turns the stream, `(layers,)`: mean of 1 − cosine of its input and output.
    """

    moments: tuple[torch.Tensor, ...]
    stem_moment: torch.Tensor | None
    scores: tuple[torch.Tensor, ...]
    token_weights: tuple[torch.Tensor, ...]
    channel_scores: tuple[torch.Tensor, ...]
    influence: torch.Tensor


@torch.no_grad()
def statistics_from_batches(
    teacher: Transformer,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    importance: str = "activation",
    task: Task = CLASSIFICATION,
) -> Statistics:
    """Run the teacher once over `(inputs, labels)` batches.

    Args:
        teacher: the model.
        batches: inputs of the stem and labels.
        importance: "activation" ranks a unit by the part of the stream's variance that it writes (mean-removed
            activation times output weights, exactly, from the unit's covariance); "taylor" by the sum over samples
            of |Σ activation × gradient of the loss|, which needs a backward pass.
        task: what the labels mean.
    """
    spec, device = teacher.spec, teacher.device
    moments = [_Moment(spec.embeds[stage], device) for stage in spec.stages]
    stem = _Moment(teacher.stem.spec.embed, device) if teacher.stem.norm is not None else None
    spreads = [_UnitSpread(block, device) if isinstance(block, Residual) else None for block in teacher.steps]
    gradients = _Gradients(teacher, task)
    turned, samples = torch.zeros(len(spec.layers), dtype=torch.float64, device=device), 0
    for inputs, labels in batches:
        flow = flow_from(teacher.stem, inputs)
        if stem is not None:
            stem.add(plain_normed(teacher.stem.norm, teacher.stem.embed(inputs)), flow.mask)
        for block, moment, spread in zip(teacher.steps, moments, spreads, strict=False):
            if isinstance(block, Merge):
                moment.add(plain_normed(block.norm, block.side_by_side(flow.x)).unflatten(-1, (PARTS, -1)), None)
            else:
                moment.add(plain_normed(block.norm, flow.x), flow.mask)
            if not isinstance(block, Residual):
                flow = onward(block, flow, inputs)
                continue
            x, mask = flow.x, flow.mask
            normed = block.normed(x)
            mixed = block.branch.mixed(normed, mask, flow.memory)
            assert spread is not None
            spread.add(mixed, mask)
            before, x = block.carried(x, normed), block.skip(x, normed) + block.branch.writer(mixed)
            # A layer's sub-blocks turn the stream by small angles; their sum ranks layers as the whole angle does.
            angles = rows_of(1 - F.cosine_similarity(before, x, dim=-1)[..., None], mask)
            turned[block.layer] += angles.double().mean() * len(x)
            flow = flow._replace(x=x)
            teacher.release(block)
        samples += len(inputs)
        pool = teacher.pool
        moments[-1].add(plain_normed(pool.norm, pool.rows(flow.x, flow.mask)), pool.row_mask(flow.mask))
        wanted = len(inputs) if importance == "taylor" else GRADIENT_SAMPLES - gradients.samples
        if wanted > 0:
            gradients.add(inputs[:wanted], labels[:wanted])
    scores = gradients.taylor if importance == "taylor" else [_scores(teacher, spread) for spread in spreads if spread]
    means = tuple(moment.finished() for moment in moments)
    channels = [torch.zeros(embed, dtype=torch.float64, device=device) for embed in spec.embeds]
    for stage, mean in zip(spec.stages, means, strict=True):
        channels[stage] += mean.diagonal()
    stem_moment, weights = None if stem is None else stem.finished(), gradients.token_weights()
    return Statistics(means, stem_moment, tuple(scores), weights, tuple(channels), turned / samples)


def rows_of(x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """`(batch, tokens, width)` as rows `(…, width)`, those of padding left out."""
    return x.reshape(-1, x.shape[-1]) if mask is None else x[mask]


class _Moment:
    """Uncentred second moment of rows `(…, width)`."""

    def __init__(self, width: int, device: torch.device) -> None:
        self.sum = torch.zeros(width, width, dtype=torch.float64, device=device)
        self.rows = 0

    def add(self, x: torch.Tensor, mask: torch.Tensor | None) -> None:
        rows = rows_of(x, mask)
        # Products of one batch in float32 (half the time on a CPU), the sum over batches in float64.
        self.sum += (rows.T @ rows).double()
        self.rows += len(rows)

    def finished(self) -> torch.Tensor:
        """The sum becomes the mean: a large model's moments are gigabytes, and there is no room for both."""
        return self.sum.div_(max(self.rows, 1))


class _UnitSpread:
    """Covariance of the columns of each unit, for the variance that the unit writes into the stream."""

    def __init__(self, block: Residual, device: torch.device) -> None:
        self.branch = block.branch
        self.size = len(block.branch.writer_columns([0]))
        units = block.branch.units
        self.square = torch.zeros(units, self.size, self.size, dtype=torch.float64, device=device)
        self.sum = torch.zeros(units, self.size, dtype=torch.float64, device=device)
        self.rows = 0

    def add(self, mixed: torch.Tensor, mask: torch.Tensor | None) -> None:
        rows = rows_of(mixed, mask).reshape(-1, len(self.sum), self.size)
        self.square += torch.einsum("rui,ruj->uij", rows, rows).double()
        self.sum += rows.sum(0).double()
        self.rows += len(rows)

    def scores(self) -> torch.Tensor:
        mean = self.sum / max(self.rows, 1)
        covariance = self.square / max(self.rows, 1) - mean[:, :, None] * mean[:, None, :]
        weight = self.branch.writer.weight.detach().double().T.reshape(len(mean), self.size, -1)
        gram = weight @ weight.transpose(1, 2)
        return (covariance * gram).sum((1, 2)).clamp(min=0).sqrt()


def _scores(teacher: Transformer, spread: _UnitSpread) -> torch.Tensor:
    found = spread.scores()
    teacher.release(spread.branch)
    return found


class _Gradients:
    """Sums over samples of what needs a backward pass: Taylor scores of units, squared gradients by token."""

    def __init__(self, teacher: Transformer, task: Task) -> None:
        self.teacher, self.task, self.samples = teacher, task, 0
        units = [block.branch.units for block in teacher.residuals]
        self.taylor = [torch.zeros(count, dtype=torch.float64, device=teacher.device) for count in units]
        self.squares: list[torch.Tensor] = []

    def add(self, inputs: torch.Tensor, labels: torch.Tensor) -> None:
        for first in range(0, len(inputs), GRADIENT_BATCH):
            part = slice(first, first + GRADIENT_BATCH)
            self._add(inputs[part], labels[part])
            self.teacher.release()
        self.samples += len(inputs)

    @torch.enable_grad()
    def _add(self, inputs: torch.Tensor, labels: torch.Tensor) -> None:
        flow = flow_from(self.teacher.stem, inputs)
        flow = flow._replace(x=flow.x.detach().requires_grad_())
        streams, mixes = [], []
        for block in self.teacher.steps:
            # Its gradient is the last thing that is made of a block's weights.
            flow.x.register_hook(functools.partial(self._let_go, block))
            streams.append(flow.x)
            if isinstance(block, Residual):
                normed = block.normed(flow.x)
                mixes.append(block.branch.mixed(normed, flow.mask, flow.memory))
                flow = flow._replace(x=block.skip(flow.x, normed) + block.branch.writer(mixes[-1]))
            else:
                flow = onward(block, flow, inputs)
            if isinstance(block, Bridge):
                flow = flow._replace(x=flow.x.detach().requires_grad_())
            self.teacher.release(block)
        loss = self.task.probe(self.teacher.head(self.teacher.pool(flow.x, flow.mask)), labels).sum()
        found = torch.autograd.grad(loss, [*streams, *mixes])
        squares = [gradient.double().square().sum((0, 2)) for gradient in found[: len(streams)]]
        self.squares = [a + b for a, b in zip(self.squares, squares, strict=True)] if self.squares else squares
        for j, mixed in enumerate(mixes):
            effect = (mixed.detach() * found[len(streams) + j]).sum(1)
            self.taylor[j] += effect.reshape(len(inputs), len(self.taylor[j]), -1).sum(-1).abs().double().sum(0)

    def _let_go(self, block: Block, _gradient: torch.Tensor) -> None:
        self.teacher.release(block)

    def token_weights(self) -> tuple[torch.Tensor, ...]:
        return tuple(
            torch.ones_like(square) if square.sum() == 0 else square / square.mean() for square in self.squares
        )


def save_statistics(path: Path, statistics: Statistics) -> None:
    """Write to a safetensors file."""
    tensors = {f"moments.{i:04d}": moment for i, moment in enumerate(statistics.moments)}
    tensors |= {f"scores.{i:04d}": score for i, score in enumerate(statistics.scores)}
    tensors |= {f"token_weights.{i:04d}": weights for i, weights in enumerate(statistics.token_weights)}
    tensors |= {f"channel_scores.{i:04d}": score for i, score in enumerate(statistics.channel_scores)}
    tensors["influence"] = statistics.influence
    if statistics.stem_moment is not None:
        tensors["stem_moment"] = statistics.stem_moment
    write_tensors(path, tensors, {})


def load_statistics(path: Path) -> Statistics:
    """What `save_statistics` wrote, mapped: the moments of a large model are gigabytes."""
    tensors = MappedTensors(path)
    moments, scores, weights, channels = (
        tuple(tensors[name] for name in sorted(tensors) if name.startswith(prefix))
        for prefix in ("moments.", "scores.", "token_weights.", "channel_scores.")
    )
    return Statistics(moments, tensors.get("stem_moment"), scores, weights, channels, tensors["influence"])
