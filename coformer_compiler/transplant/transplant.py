"""Closed-form transplanting: members get their weights by regression against the teacher, no gradient step.

The teacher's stream t and every member's stream s walk the layers side by side over the calibration set. Each reader is
fitted from the member's own normed stream to what the teacher's kept units read; each writer so that the member's
stream meets the teacher's as seen in the member's basis, which corrects the errors made so far, those of dropped
layers included. A merge, which ends a stage, is one linear from stream to stream and fitted like a writer. One forward
pass of the teacher in all. Only the two streams are kept between sub-blocks; all else is reduced to Gram matrices batch
by batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from coformer_compiler.decomposer.policy import MemberPolicy
from coformer_compiler.decomposer.shapes import member_spec, shape_of_member
from coformer_compiler.model.attention import Attention
from coformer_compiler.model.merge import PARTS, Merge
from coformer_compiler.model.mlp import Mlp
from coformer_compiler.model.residual import Residual
from coformer_compiler.model.transformer import Transformer
from coformer_compiler.transplant.basis import (
    BasisKind,
    basis_of_width,
    gain_of,
    shift_of,
)
from coformer_compiler.transplant.lesson import Lesson, lesson_of, reading_gram
from coformer_compiler.transplant.regression import Fit, SplitGram, ridge
from coformer_compiler.transplant.statistics import Statistics
from coformer_compiler.transplant.streams import Streams
from coformer_compiler.transplant.values import LARGEST_GRAM, prior_of_heads, values_of_heads


@dataclass(frozen=True)
class Match:
    """How well one linear of a member was matched: held-out R² and the penalty that was chosen."""

    member: int
    block: str
    linear: str
    match: float
    penalty: float


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
    walkers = [_Walker(n, lesson, policy) for n, policy in enumerate(policies)]
    shape = (len(inputs), teacher.spec.stem.tokens)
    widths = [0 if walk is not None else teacher.spec.stem.out, *(walker.member.stem.spec.out for walker in walkers)]
    with ExitStack() as stack:
        streams = stack.enter_context(Streams(shape, widths, batch, memory_bytes, teacher.device))
        for walker in walkers:
            walker.start(streams, inputs)
        if walk is None:
            for part in streams.parts():
                streams.write(0, part, teacher.stem(inputs[part].to(streams.device)))
        masks = _Masks(teacher, inputs, streams.device)
        for j, block in enumerate(teacher.steps):
            if walk is not None:
                streams.show(0, walk.streams[j])
            here = [walker for walker in walkers if walker.keeps(block)]
            for walker in here:
                walker.finish_pending(streams, masks, j)
            if isinstance(block, Merge):
                streams = stack.enter_context(_merge(streams, block, lesson, j, walkers))
                continue
            _read(streams, masks, block, lesson, j, here)
            teacher.release(block)
            advance()
        if walk is not None:
            streams.show(0, walk.streams[-1])
        for walker in walkers:
            walker.finish_pending(streams, masks, len(teacher.steps), teacher)
        features = [walker.features(streams, masks) for walker in walkers]
    matches = [match for walker in walkers for match in walker.matches]
    return Transplanted([w.member for w in walkers], matches, [w.readout_prior(teacher) for w in walkers], features)


class _Masks:
    """Which tokens of the calibration set are no padding; None where there is none."""

    def __init__(self, teacher: Transformer, inputs: torch.Tensor, device: torch.device) -> None:
        self.whole = teacher.stem.mask(inputs.to(device))

    def read(self, part: slice) -> torch.Tensor | None:
        """Bool `(batch, tokens)`."""
        return None if self.whole is None else self.whole[part]


def _read(
    streams: Streams, masks: _Masks, block: Residual, lesson: Lesson, point: int, here: Sequence[_Walker]
) -> None:
    """Fit the readers of all members that keep the block, and move the teacher's stream behind it, in one pass.

    The member's normed stream is regressed on the teacher's normed stream; any rows of the teacher's reader are linear
    in that, so that their regressions follow from one Gram.
    """
    moving = lesson.walk is None
    reading = reading_gram(block, lesson.products) if lesson.walk is None else lesson.walk.readings[point]
    grams = [walker.begin_read(block, lesson.products) for walker in here]
    for part in streams.parts() if moving or here else ():
        x, mask = streams.read(0, part), masks.read(part)
        normed = block.normed(x)
        for walker, (gram, local) in zip(here, grams, strict=True):
            gram.add(local.normed(streams.read(walker.stream, part)), normed, part.start, mask)
        if moving:
            if here:
                reading.add(normed, normed[..., :0], part.start, mask)
            written = block.branch.writer(block.branch.mix(block.branch.reader(normed), mask))
            streams.write(0, part, block.skip(x, normed) + written)
    for walker, (gram, _) in zip(here, grams, strict=True):
        walker.end_read(block, point, gram, reading)


def _merge(streams: Streams, block: Merge, lesson: Lesson, point: int, walkers: Sequence[_Walker]) -> Streams:
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


class _Pending(NamedTuple):
    """A block of the member whose writer waits: the member's block, the point before it, the teacher's, kept units."""

    local: Residual
    before: int
    block: Residual
    units: list[int]


class _Walker:
    """One member on the walk: its basis at every point, its blocks so far, and the block whose writer is pending."""

    def __init__(self, index: int, lesson: Lesson, policy: MemberPolicy) -> None:
        self.index, self.stream = index, index + 1
        teacher, device = lesson.teacher, lesson.teacher.device
        self.teacher, self.names = teacher, teacher.spec.block_names
        self.products, self.penalties, self.sketch = lesson.products, lesson.penalties, lesson.sketch
        self.refit_values = lesson.refit_values
        self.token_weights = [weights.to(device) for weights in lesson.statistics.token_weights]
        self.bases = lesson.bases(policy.embed)
        spec = member_spec(teacher.spec, shape_of_member(policy), shortcuts=lesson.basis == "per-norm")
        self.member = Transformer(spec).to(device).eval()
        self.shares = {share.layer: share for share in policy.layers}
        self.blocks = iter(self.member.steps)
        self.pending: _Pending | None = None
        self.matches: list[Match] = []
        self._stem_from(lesson)

    def _stem_from(self, lesson: Lesson) -> None:
        # The member's first norm is that of its first kept block, which need not be the teacher's first.
        teacher, device = lesson.teacher, lesson.teacher.device
        first = self.bases[self._next_point(0)]
        norm, vectors = teacher.stem.norm, lesson.stem_vectors
        if norm is None or vectors is None:
            self.member.stem = teacher.stem.project(first.into).to(device)
            return
        plain, mix = self.member.stem.norm, teacher.stem.mix
        assert plain is not None
        inner = basis_of_width(vectors, plain.spec.width, norm.spec.kind)
        weight = gain_of(norm, len(vectors)).to(device)[:, None] * inner.back
        bias = shift_of(norm, len(vectors)).to(device)
        if mix is not None:
            weight, bias = mix.weight.double() @ weight, mix.weight.double() @ bias + mix.bias.double()
        weight, bias = first.into @ weight, first.into @ bias
        self.member.stem = teacher.stem.project(inner.into).with_norm(plain, weight, bias).to(device)

    def start(self, streams: Streams, inputs: torch.Tensor) -> None:
        """Embed the calibration set."""
        for part in streams.parts():
            streams.write(self.stream, part, self.member.stem(inputs[part].to(streams.device)))

    def keeps(self, block: Residual | Merge) -> bool:
        """Whether the member keeps the teacher's layer that the block belongs to; a merge always."""
        return isinstance(block, Merge) or block.layer in self.shares

    def _next_point(self, point: int) -> int:
        """The point of the member's first block from `point` on, or of the pool."""
        steps = self.teacher.steps
        return next((j for j in range(point, len(steps)) if self.keeps(steps[j])), len(steps))

    def fit_merge(self, streams: Streams, block: Merge, point: int) -> Merge:
        """The member's merge, fitted to the stream that the teacher's gives, as the member's next block sees it."""
        local = next(self.blocks)
        assert isinstance(local, Merge)
        following = self._next_point(point + 1)
        into, back = self.bases[following].into, torch.block_diag(*[self.bases[point].back] * PARTS)
        prior = into @ (block.reader.weight.detach().double() * gain_of(block.norm, len(back)).to(into)) @ back
        gram, cast = SplitGram(prior.shape[1], len(prior), into.device, self.products), into.float()
        weights = self.token_weights[following] if following < len(self.token_weights) else None
        for part in streams.parts():
            beside = local.norm(local.side_by_side(streams.read(self.stream, part)))
            gram.add(beside, block(streams.read(0, part)) @ cast.T, part.start, weights)
        self._set(local.reader, ridge(gram, prior, self.penalties, self.sketch), point, "merge")
        return local

    def begin_read(self, block: Residual, products: torch.dtype) -> tuple[SplitGram, Residual]:
        """An empty Gram from the member's to the teacher's normed stream, and the member's next block."""
        local = next(self.blocks)
        assert isinstance(local, Residual)
        share = self.shares[block.layer]
        units = share.heads if block.kind == "attention" else share.neurons
        local.branch = block.branch.with_units(units, local.branch.reader, local.branch.writer)
        self.reading = (local, list(units))
        reader = block.branch.reader
        return SplitGram(local.branch.spec.embed, reader.in_features, reader.weight.device, products), local

    def end_read(self, block: Residual, point: int, gram: SplitGram, reading: SplitGram) -> None:
        """Solve the reader; the writer waits until the teacher's stream reaches the member's next norm."""
        local, units = self.reading
        reader, rows = block.branch.reader, block.branch.reader_rows(units)
        weight = reader.weight.detach().double()[rows]
        bias = None if reader.bias is None else reader.bias.detach().double()[rows]
        prior = (weight * gain_of(block.norm, weight.shape[1]).to(weight)) @ self.bases[point].back
        # ΣY², which costs more than all else here, is needed for the match alone.
        outputs = reading if self.sketch is None else None
        fit = ridge(gram.mapped(weight, bias, outputs), prior, self.penalties, self.sketch)
        self._set(local.branch.reader, fit, point, "reader")
        self.pending = _Pending(local, point, block, units)

    def finish_pending(self, streams: Streams, masks: _Masks, point: int, teacher: Transformer | None = None) -> None:
        """Solve the pending writer (and shortcut) against the teacher's stream at `point`, then move the member's.

        Args:
            streams: teacher's stream at `point`, member's before the pending block.
            masks: of the padding in both.
            point: index of the norm that reads the result.
            teacher: given at the end of the walk: then only what the pool sees is fitted.
        """
        if self.pending is None:
            return
        local, before, block, units = self.pending
        into = self.bases[point].into
        columns = block.branch.writer_columns(units)
        written = into @ block.branch.writer.weight.detach().double()[:, columns]
        skipped = self._skipped(local, block, before, into)
        attention = _with_values_to_refit(local.branch, skipped.shape[1]) if self.refit_values else None
        prior = torch.cat([skipped, written if attention is None else _prior_of_heads(attention, written)], 1)
        gram = SplitGram(prior.shape[1], len(prior), into.device, self.products)
        cast = into.float()
        # Least squares spends its freedom where the rows are; weighting them by what the loss feels there spends it
        # where it counts. Measured: a fifth less loss per member (docs/method.md).
        weights = self.token_weights[point] if teacher is None else None
        keep = streams.fits(len(columns)) and attention is None
        mixes: list[torch.Tensor] = []
        for part in streams.parts():
            s, mask = streams.read(self.stream, part), masks.read(part)
            normed = local.normed(s)
            read = local.branch.reader(normed)
            mixed = local.branch.mix(read, mask) if attention is None else attention.mix_stream(read, normed, mask)
            mixes += [mixed] if keep else []
            wanted = streams.read(0, part) @ cast.T
            if local.shortcut is None:
                wanted = wanted - s
            else:
                mixed = torch.cat([local.carried(s, normed), mixed], -1)
            if teacher is None:
                gram.add(mixed, wanted, part.start, _weighted(weights, mask))
            else:
                pool = teacher.pool
                gram.add(pool.rows(mixed, mask), pool.rows(wanted, mask), part.start, pool.row_mask(mask))
        if attention is None:
            fit = ridge(gram, prior, self.penalties, self.sketch)
        else:
            fit = self._refit_values(attention, gram, torch.cat([skipped, written], 1), prior)
        self._set_writer(local, fit, before)
        for n, part in enumerate(streams.parts()):
            s, mask = streams.read(self.stream, part), masks.read(part)
            normed = local.normed(s)
            mixed = mixes[n] if keep else local.branch.mix(local.branch.reader(normed), mask)
            streams.write(self.stream, part, local.skip(s, normed) + local.branch.writer(mixed))
        self.pending = None

    def _skipped(self, local: Residual, block: Residual, before: int, into: torch.Tensor) -> torch.Tensor:
        """`(outputs, width)`: the shortcut's matrix as the bases say; of no width where there is none."""
        if local.shortcut is None:
            return into[:, :0]
        back = self.bases[before].back
        if block.post_norm:
            back = gain_of(block.norm, len(back)).to(back)[:, None] * back
        return into @ back

    def _refit_values(self, branch: Attention, gram: SplitGram, prior: torch.Tensor, seen: torch.Tensor) -> Fit:
        """Give the heads values of their own, or leave them the teacher's where these match held-out samples as well.

        Args:
            branch: whose values.
            gram: of the regression on the streams that the heads attend to, behind the shortcut's.
            prior: of the writer of the teacher's values.
            seen: of the regression in `gram`.

        Returns:
            The writer of the values that the branch then has.
        """
        heads, dim, width = branch.spec.heads, branch.spec.head_dim, branch.spec.embed
        skipped, rows = seen.shape[1] - heads * width, slice(2 * heads * dim, None)
        whole = ridge(gram, seen, self.penalties, self.sketch).weight
        values, writer = values_of_heads(whole[:, skipped:], gram.whole, heads, dim)
        fits = []
        for each, towards in (
            (branch.reader.weight.detach().double()[rows], prior),
            (values, torch.cat([whole[:, :skipped], writer], 1)),
        ):
            through = torch.block_diag(torch.eye(skipped).to(each), *each.split(dim))
            fits.append(ridge(gram.combined(through), towards, self.penalties, self.sketch))
        branch.reader.bias[rows] = 0  # a constant passes the attention, and is in the writer's bias
        if fits[1].match <= fits[0].match:
            return fits[0]
        branch.reader.weight[rows] = values.to(branch.reader.weight)
        return fits[1]

    def features(self, streams: Streams, masks: _Masks) -> torch.Tensor:
        """Pooled features `(samples, features)` at the end of the walk."""
        pool = self.member.pool
        return torch.cat([pool(streams.read(self.stream, part), masks.read(part)) for part in streams.parts()])

    def _set_writer(self, local: Residual, fit: Fit, point: int) -> None:
        if local.shortcut is not None:
            width = local.shortcut.in_features
            local.shortcut.weight.copy_(fit.weight[:, :width])
            fit = Fit(fit.weight[:, width:], fit.bias, fit.penalty, fit.match)
        self._set(local.branch.writer, fit, point, "writer")

    def _set(self, linear: nn.Linear, fit: Fit, point: int, role: str) -> None:
        linear.weight.copy_(fit.weight)
        linear.bias.copy_(fit.bias)
        self.matches.append(Match(self.index, self.names[point], role, fit.match, fit.penalty))

    def readout_prior(self, teacher: Transformer) -> torch.Tensor:
        """`(teacher features, member features)`: the final basis back, with the final norm's gain."""
        back: torch.Tensor = self.bases[-1].back
        back = gain_of(teacher.pool.norm, len(back)).to(back)[:, None] * back
        copies = teacher.pool.spec.count if teacher.pool.spec.kind == "prefix" else 1
        prior: torch.Tensor = torch.block_diag(*[back] * copies)
        return prior


def _with_values_to_refit(branch: Attention | Mlp, skipped: int) -> Attention | None:
    """The branch, if it gathers values and the regression that finds better ones is of a bearable size."""
    if isinstance(branch, Attention) and branch.spec.heads * branch.spec.embed + skipped <= LARGEST_GRAM:
        return branch
    return None


def _prior_of_heads(branch: Attention, written: torch.Tensor) -> torch.Tensor:
    heads = branch.spec.heads
    return prior_of_heads(written, branch.reader.weight.detach().double()[2 * written.shape[1] :], heads)


def _weighted(weights: torch.Tensor | None, mask: torch.Tensor | None) -> torch.Tensor | None:
    """Weights by token `(tokens,)` where there is a token, `(batch, tokens)`."""
    if mask is None or weights is None:
        return weights if mask is None else mask
    return weights * mask
