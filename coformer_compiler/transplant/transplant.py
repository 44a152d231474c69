"""Closed-form transplanting: members get their weights by regression against the teacher, no gradient step.

The teacher's stream t and every member's stream s walk the layers side by side over the calibration set. Each reader is
fitted from the member's own normed stream to what the teacher's kept units read; each writer so that the member's
stream meets the teacher's as seen in the member's basis, which corrects the errors made so far, those of dropped
layers included. A merge, which ends a stage, is one linear from stream to stream and fitted like a writer. A reader of
the memory, which an encoder leaves to its decoder, is fitted from the member's memory to the teacher's like any other.
One forward pass of the teacher in all. Only the two streams (and, in a decoder, the memories) are kept between
sub-blocks; all else is reduced to Gram matrices batch by batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch

from coformer_compiler.decomposer.policy import MemberPolicy
from coformer_compiler.model.bridge import Bridge
from coformer_compiler.model.merge import PARTS, Merge
from coformer_compiler.model.residual import Residual
from coformer_compiler.model.transformer import Transformer
from coformer_compiler.transplant.basis import BasisKind
from coformer_compiler.transplant.lesson import Lesson, lesson_of, reading_gram
from coformer_compiler.transplant.regression import SplitGram
from coformer_compiler.transplant.statistics import Statistics
from coformer_compiler.transplant.streams import Streams
from coformer_compiler.transplant.walker import Beside, Match, Walker


@dataclass(frozen=True)
class Transplanted:
    """Members without heads fitted yet, how well each linear was matched, and the prior of each member's readout.

    `priors[n]` is `(teacher features, member features)`: the member's features back in the teacher's, as its final
    basis says. `features[n]` are its features on the calibration samples, `(samples, member features)`.
    """

    members: list[Transformer]
    matches: list[Match]
    priors: list[torch.Tensor]
    features: list[torch.Tensor]


@torch.no_grad()
def transplant(
    teacher: Transformer,
    statistics: Statistics,
    policies: Sequence[MemberPolicy],
    inputs: torch.Tensor,
    *,
    basis: BasisKind,
    batch: int = 128,
    memory_bytes: int = 2**31,
    advance: Callable[[], None] = lambda: None,
) -> Transplanted:
    """Transplant the teacher into one member per policy, all in one walk.

    Args:
        teacher: the model, in evaluation mode.
        statistics: its statistics on `inputs`.
        policies: what each member keeps.
        inputs: calibration samples `(samples, *stem input)`.
        basis: one basis for the whole stream, or one per norm with matrices in the shortcuts; post-norm teachers need
            the latter.
        batch: samples at a time.
        memory_bytes: above this the streams are kept in a temporary file.
        advance: called after every sub-block of the teacher, for a progress bar.
    """
    return transplant_lesson(
        lesson_of(teacher, statistics, basis), policies, inputs, batch=batch, memory_bytes=memory_bytes, advance=advance
    )


@torch.no_grad()
def transplant_lesson(
    lesson: Lesson,
    policies: Sequence[MemberPolicy],
    inputs: torch.Tensor,
    *,
    batch: int = 128,
    memory_bytes: int = 2**31,
    advance: Callable[[], None] = lambda: None,
) -> Transplanted:
    """`transplant` with the parts that all candidates of a search share computed before; `inputs` are the lesson's."""
    teacher, walk = lesson.teacher, lesson.walk
    walkers = [Walker(n, lesson, policy) for n, policy in enumerate(policies)]
    shape = (len(inputs), teacher.spec.stem.tokens)
    widths = [0 if walk is not None else teacher.spec.stem.out, *(walker.member.stem.spec.out for walker in walkers)]
    with ExitStack() as stack:
        streams = stack.enter_context(Streams(shape, widths, batch, memory_bytes, teacher.device))
        for walker in walkers:
            walker.start(streams, inputs)
        if walk is None:
            for part in streams.parts():
                streams.write(0, part, teacher.stem(inputs[part].to(streams.device)))
        beside = Beside(teacher.stem, inputs, streams.device)
        for j, block in enumerate(teacher.steps):
            if walk is not None:
                streams.show(0, walk.streams[j])
            here = [walker for walker in walkers if walker.keeps(block)]
            for walker in here:
                walker.finish_pending(streams, beside, j)
            if isinstance(block, Merge):
                streams = stack.enter_context(_merge(streams, block, lesson, j, walkers))
                continue
            if isinstance(block, Bridge):
                memories = stack.enter_context(_remember(streams, beside, block, lesson, j, walkers))
                streams = stack.enter_context(_begin_text(streams, block, lesson, j, walkers, inputs))
                beside = Beside(block.stem, inputs, streams.device, memories, beside)
                continue
            _read(streams, beside, block, lesson, j, here)
            teacher.release(block)
            advance()
        if walk is not None:
            streams.show(0, walk.streams[-1])
        for walker in walkers:
            walker.finish_pending(streams, beside, len(teacher.steps), teacher)
        features = [walker.features(streams, beside) for walker in walkers]
    matches = [match for walker in walkers for match in walker.matches]
    return Transplanted([w.member for w in walkers], matches, [w.readout_prior(teacher) for w in walkers], features)


def _read(
    streams: Streams, beside: Beside, block: Residual, lesson: Lesson, point: int, here: Sequence[Walker]
) -> None:
    """Fit the readers of all members that keep the block, and move the teacher's stream behind it, in one pass.

    The member's normed stream is regressed on the teacher's normed stream; any rows of the teacher's reader are linear
    in that, so that their regressions follow from one Gram.
    """
    moving = lesson.walk is None
    reading = reading_gram(block, lesson.products) if lesson.walk is None else lesson.walk.readings[point]
    grams = [walker.begin_read(block, lesson.products) for walker in here]
    for part in streams.parts() if moving or here else ():
        x, mask = streams.read(0, part), beside.mask(part)
        normed = block.normed(x)
        for walker, (gram, local) in zip(here, grams, strict=True):
            gram.add(local.normed(streams.read(walker.stream, part)), normed, part.start, mask)
        if moving:
            if here:
                reading.add(normed, normed[..., :0], part.start, mask)
            written = block.branch.writer(block.branch.mixed(normed, mask, beside.memory(0, part)))
            streams.write(0, part, block.skip(x, normed) + written)
    for walker, (gram, _) in zip(here, grams, strict=True):
        walker.end_read(block, point, gram, reading)


def _merge(streams: Streams, block: Merge, lesson: Lesson, point: int, walkers: Sequence[Walker]) -> Streams:
    """Fit all members' merges; the streams of the next stage, those of this one being closed."""
    models = {walker.stream: walker.fit_merge(streams, block, point) for walker in walkers}
    if lesson.walk is None:
        models[0] = block
    widths = [models[number].spec.out if number in models else 0 for number in range(len(walkers) + 1)]
    following = streams.following(math.prod(block.spec.grid) // PARTS, widths)
    for part in streams.parts():
        for number, model in models.items():
            following.write(number, part, model(streams.read(number, part)))
    streams.close()
    return following


def _remember(
    streams: Streams, beside: Beside, block: Bridge, lesson: Lesson, point: int, walkers: Sequence[Walker]
) -> Streams:
    """Everyone's memory, and what the members' readers of it will be fitted from."""
    moving = lesson.walk is None
    reading = reading_gram(block, lesson.products) if lesson.walk is None else lesson.walk.readings[point]
    models = {walker.stream: walker.begin_bridge() for walker in walkers}
    widths = [block.norm.spec.width if moving else 0, *(model.norm.spec.width for model in models.values())]
    memories = streams.following(streams.tokens, widths)
    outputs = block.norm.spec.width
    sums = {number: SplitGram(widths[number], outputs, streams.device, lesson.products) for number in models}
    for part in streams.parts():
        mask, wanted = beside.mask(part), block.norm(streams.read(0, part))
        if moving:
            reading.add(wanted, wanted[..., :0], part.start, mask)
            memories.write(0, part, wanted)
        for number, model in models.items():
            own = model.norm(streams.read(number, part))
            sums[number].add(own, wanted, part.start, mask)
            memories.write(number, part, own)
    for walker in walkers:
        walker.memory = walker.source(block, point, sums[walker.stream], reading)
    return memories


def _begin_text(
    streams: Streams, block: Bridge, lesson: Lesson, point: int, walkers: Sequence[Walker], inputs: torch.Tensor
) -> Streams:
    """The streams of the decoder's text, those of the encoder's being closed."""
    stems = {walker.stream: walker.end_bridge(block, point) for walker in walkers}
    if lesson.walk is None:
        stems[0] = block.stem
    widths = [stems[number].spec.out if number in stems else 0 for number in range(len(walkers) + 1)]
    following = streams.following(block.stem.spec.tokens, widths)
    for part in streams.parts():
        for number, stem in stems.items():
            following.write(number, part, stem(inputs[part].to(streams.device)))
    streams.close()
    return following
