"""The training loop that both phases share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from coformer_compiler.booster.batches import Batch, Lessons, batch_of_step
from coformer_compiler.booster.history import Point, Verdict
from coformer_compiler.booster.options import BoosterOptions
from coformer_compiler.booster.ranks import Ranks
from coformer_compiler.booster.schedule import learning_rate_factor
from coformer_compiler.booster.state import State, write_state
from coformer_compiler.data.dataset import Split
from coformer_compiler.model.attention import Attention
from coformer_compiler.model.transformer import Transformer
from coformer_compiler.progress import Progress
from coformer_runtime.errors import CoformerError

POINTS, VALIDATED = 20, 4
"""Points of a training curve after its start, and how many of them are validated."""

LARGEST_GRADIENT = 1.0
"""Norm to which gradients are clipped."""


@dataclass(frozen=True)
class Run:
    """What does not change while a run goes on.

    Attributes:
        options: as given.
        teacher: on the device, without gradients.
        starts: the members as they came.
        lessons: the training split with the teacher's outputs.
        validation: what choices are made by.
        ranks: this process.
        progress: silent in all processes but the first.
        checkpoint: the file.
        digest: of all inputs; says whether a checkpoint is this run's.
    """

    options: BoosterOptions
    teacher: Transformer
    starts: tuple[Transformer, ...]
    lessons: Lessons
    validation: Split
    ranks: Ranks
    progress: Progress
    checkpoint: Path
    digest: str

    def save(self, state: State) -> None:
        """Write a checkpoint, in the first process."""
        if self.ranks.first:
            write_state(self.checkpoint, state, self.digest)


@dataclass(frozen=True)
class Phase:
    """One training: what learns, from which loss.

    Attributes:
        name: of its curve, such as "member 0".
        steps: how many.
        learning_rate: peak.
        learning_rate_option: what the user would change it by.
        modules: what learns.
        losses: weighted losses of a batch, per sample `(batch,)`, float32.
        judge: verdict on the validation split.
    """

    name: str
    steps: int
    learning_rate: float
    learning_rate_option: str
    modules: Sequence[nn.Module]
    losses: Callable[[Batch], torch.Tensor]
    judge: Callable[[], Verdict]


def train(phase: Phase, run: Run, state: State) -> None:
    """Train from `state.step` to the end of the phase, with a checkpoint every few steps.

    Raises:
        CoformerError: the loss is no longer finite.
    """
    if phase.steps == 0:
        return
    optimizer, scaler = _optimizer(phase, run), _scaler(run.ranks.device)
    _restore_optimizer(optimizer, scaler, state)
    if state.step == 0:
        point = Point(0, None, phase.judge().accuracy)
        state.history = state.history.with_point(phase.name, point)
    with run.progress.stage(phase.name, phase.steps, done=state.step, unit="step") as stage:
        for step in range(state.step, phase.steps):
            loss = _take_step(phase, run, state, optimizer, scaler)
            if not math.isfinite(loss):
                raise _diverged(phase, step, loss)
            state.step = step + 1
            state.pending.append(loss)
            figures = {"loss": loss} | _add_point(phase, state)
            if state.step % run.options.checkpoint_every == 0 and state.step < phase.steps:
                state.optimizer = _optimizer_tensors(optimizer, scaler)
                run.save(state)
            stage.advance(1, figures)
    run.ranks.same_everywhere([*state.models().state_dict().values()])


def _take_step(
    phase: Phase, run: Run, state: State, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler
) -> float:
    options, device = run.options, run.ranks.device
    for group in optimizer.param_groups:
        group["lr"] = phase.learning_rate * learning_rate_factor(state.step, phase.steps)
    batch = batch_of_step(run.lessons, state.weights, options, state.phase, state.step, run.ranks)
    with torch.autocast(device.type, _half_type(device), enabled=device.type == "cuda" or options.half):
        losses = phase.losses(batch)
    loss = losses.sum() / options.batch
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    _still_key_biases(phase.modules)
    value = run.ranks.sum_gradients(parameters, loss)
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(parameters, LARGEST_GRADIENT)
    scaler.step(optimizer)
    scaler.update()
    return value


def _still_key_biases(modules: Sequence[nn.Module]) -> None:
    """Clear the gradients of key biases, which are rounding and nothing else.

    Softmax takes no notice of what all its inputs share, and a key bias adds the same to all. AdamW divides by the
    gradient's size, so noise of 1e-9 would walk these weights about, and two processes would end elsewhere than one.
    """
    for module in modules:
        for attention in module.modules():
            if isinstance(attention, Attention) and attention.key_norm is None:
                bias, inner = attention.reader.bias, attention.reader.out_features // 3
                if bias is not None and bias.grad is not None:
                    bias.grad[inner : 2 * inner] = 0


def _add_point(phase: Phase, state: State) -> dict[str, float]:
    """Add a point to the history where one is due; returns what to show of it."""
    every = math.ceil(phase.steps / POINTS)
    last = state.step == phase.steps
    if state.step % every and not last:
        return {}
    validated = last or state.step // every % (POINTS // VALIDATED) == 0
    accuracy = phase.judge().accuracy if validated else None
    point = Point(state.step, math.fsum(state.pending) / len(state.pending), accuracy)
    state.history = state.history.with_point(phase.name, point)
    state.pending = []
    return {} if accuracy is None else {"validation": accuracy}


def _optimizer(phase: Phase, run: Run) -> torch.optim.AdamW:
    """AdamW that decays matrices and leaves biases, norms and single tokens alone."""
    parameters = [p for module in phase.modules for p in module.parameters()]
    matrices = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": run.options.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=phase.learning_rate)


def _optimizer_tensors(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> dict[str, torch.Tensor]:
    tensors = {
        f"{index}.{key}": value.detach().clone()
        for index, moments in optimizer.state_dict()["state"].items()
        for key, value in moments.items()
    }
    if scaler.is_enabled():
        kept = scaler.state_dict()
        tensors["scaler"] = torch.tensor([kept["scale"], kept["_growth_tracker"]], dtype=torch.float64)
    return tensors


def _restore_optimizer(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, state: State) -> None:
    tensors = dict(state.optimizer)
    scale = tensors.pop("scaler", None)
    if scale is not None and scaler.is_enabled():
        kept = {"scale": float(scale[0]), "_growth_tracker": int(scale[1])}
        scaler.load_state_dict(scaler.state_dict() | kept)
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        moments.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})


def _half_type(device: torch.device) -> torch.dtype:
    """bfloat16, which needs no gradient scale, where the device computes in it."""
    return torch.float16 if device.type == "cuda" and not torch.cuda.is_bf16_supported() else torch.bfloat16


def _scaler(device: torch.device) -> torch.amp.GradScaler:
    return torch.amp.GradScaler(device.type, enabled=_half_type(device) == torch.float16)


def _diverged(phase: Phase, step: int, loss: float) -> CoformerError:
    where = f"boost, {phase.name}, step {step}"
    if step == 0:
        mend = "its weights give no finite outputs before any training: look at where they come from"
    else:
        mend = f"lower boost.{phase.learning_rate_option} (now {phase.learning_rate:g})"
    return CoformerError(f"the loss became {loss}", where, mend)
