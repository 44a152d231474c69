"""From a teacher and transplanted members to calibrated members and their aggregator."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import nn

from coformer_compiler.booster.combine import combine_members
from coformer_compiler.booster.history import History
from coformer_compiler.booster.joint import train_jointly
from coformer_compiler.booster.judge import judge_all
from coformer_compiler.booster.options import BoosterOptions, out_of_range
from coformer_compiler.booster.progressive import calibrate_member
from coformer_compiler.booster.ranks import Ranks, join_ranks
from coformer_compiler.booster.state import State, read_state
from coformer_compiler.booster.teacher import digest_of_model, digest_of_split, lessons_from_teacher
from coformer_compiler.booster.training import Run
from coformer_compiler.booster.weights import equal_weights
from coformer_compiler.data.dataset import Split
from coformer_compiler.model.aggregator import Aggregator
from coformer_compiler.model.transformer import Transformer
from coformer_compiler.progress import Progress, SilentProgress
from coformer_compiler.tasks import CLASSIFICATION
from coformer_runtime.errors import CoformerError

CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class BoosterResult:
    """What the booster makes.

    Attributes:
        members: calibrated, on the CPU, in evaluation mode.
        aggregator: for every subset, likewise.
        history: what happened.
    """

    members: list[Transformer]
    aggregator: Aggregator
    history: History


def boost(
    teacher: Transformer,
    members: Sequence[Transformer],
    train: Split,
    validation: Split,
    options: BoosterOptions,
    workdir: Path,
    progress: Progress,
) -> BoosterResult:
    """Calibrate the members one by one, fit the aggregator, then train all together where that helps.

    The arguments stay as they are. A run that was killed goes on from its last checkpoint in `workdir` when it is
    started again with the same arguments; with others it starts over. On the CPU the same arguments give the same
    weights, bit for bit, for the same number of threads. Under torchrun all processes call this and all get the result.

    Args:
        teacher: what to learn from.
        members: where to start from, in the order of calibration.
        train: what to learn on; in memory or memory-mapped.
        validation: what choices are made by.
        options: see there.
        workdir: for the teacher's outputs and the checkpoint; all processes see it.
        progress: where steps, loss and time left are shown.

    Raises:
        CoformerError: an option out of range, a loss that is not finite, no CUDA where it is asked for, a file in
            `workdir` that cannot be read.
    """
    if options.weighting != "none" and train.task.name != CLASSIFICATION.name:
        raise CoformerError(
            f"'{options.weighting}' weights samples by how wrong their class is, the task is {train.task.name}",
            "boost.weighting",
            "set it to 'none'",
        )
    with join_ranks(options.device) as ranks:
        if options.batch < ranks.size:
            raise out_of_range("batch", options.batch, f"give {ranks.size} or more: one for each process")
        run, state = _start(teacher, members, train, validation, options, workdir, ranks, progress)
        count = len(state.members)
        with run.progress.stage("boost", count + 2, done=min(state.phase, count + 2)) as stage:
            while state.phase < count:
                calibrate_member(run, state)
                stage.advance()
            if state.phase == count:
                combine_members(run, state)
                stage.advance()
            if state.phase == count + 1:
                train_jointly(run, state)
                stage.advance()
        return _finish(run, state)


def _start(
    teacher: Transformer,
    members: Sequence[Transformer],
    train: Split,
    validation: Split,
    options: BoosterOptions,
    workdir: Path,
    ranks: Ranks,
    progress: Progress,
) -> tuple[Run, State]:
    """Copies on the device, the teacher's outputs, and the checkpoint if it is this run's."""
    progress = progress if ranks.first else SilentProgress()
    workdir.mkdir(parents=True, exist_ok=True)
    lessons_digest = _digest(digest_of_model(teacher), digest_of_split(train))
    digest = _digest(
        lessons_digest,
        digest_of_split(validation),
        *(digest_of_model(member) for member in members),
        json.dumps([member.spec.to_json() for member in (teacher, *members)], sort_keys=True),
        json.dumps(_deciding(options), sort_keys=True),
    )
    teacher = _still(teacher).to(ranks.device).eval()
    copies = [copy.deepcopy(member).to(ranks.device).eval().requires_grad_() for member in members]
    lessons = lessons_from_teacher(teacher, train, options, lessons_digest, workdir, ranks, progress)
    checkpoint = workdir / CHECKPOINT
    run = Run(options, teacher, tuple(members), lessons, validation, ranks, progress, checkpoint, digest)
    state = read_state(checkpoint, digest, copies, teacher.head) if checkpoint.exists() else None
    if state is not None:
        progress.note(f"boost: resumed from {checkpoint} (phase {state.phase}, step {state.step})")
    ranks.barrier()
    return run, state or State(copies, equal_weights(len(train)))


def _still(model: Transformer) -> Transformer:
    """A copy for reading: it has modules of its own and shares the weights, which may be gigabytes."""
    shared = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
    return copy.deepcopy(model, shared)


def _finish(run: Run, state: State) -> BoosterResult:
    """Verdicts on everything, and all of it back on the CPU."""
    aggregator = state.aggregator
    assert aggregator is not None, "the last phase is over"
    alone, together = judge_all(state.members, aggregator, run.validation, run.ranks.device)
    history = replace(state.history, members=alone, subsets=together)
    return BoosterResult(
        [member.cpu().eval().requires_grad_(False) for member in state.members],
        aggregator.cpu().eval().requires_grad_(False),
        history,
    )


def _deciding(options: BoosterOptions) -> dict[str, object]:
    """The options that the weights depend on."""
    return {name: value for name, value in asdict(options).items() if name not in ("device", "checkpoint_every")}


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
