"""One member on the walk over the teacher's blocks: what it has so far, and how its linears are fitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from coformer_compiler.decomposer.policy import MemberPolicy
from coformer_compiler.decomposer.shapes import member_spec, shape_of_member
from coformer_compiler.model.attention import Attention
from coformer_compiler.model.bridge import Bridge
from coformer_compiler.model.cross_attention import CrossAttention
from coformer_compiler.model.flow import Block
from coformer_compiler.model.memory import Memory
from coformer_compiler.model.merge import PARTS, Merge
from coformer_compiler.model.mlp import Mlp
from coformer_compiler.model.residual import Residual
from coformer_compiler.model.stem import Stem
from coformer_compiler.model.token_stem import TokenStem
from coformer_compiler.model.transformer import Transformer
from coformer_compiler.transplant.basis import basis_of_width, gain_of, shift_of
from coformer_compiler.transplant.lesson import Lesson
from coformer_compiler.transplant.regression import Fit, SplitGram, ridge
from coformer_compiler.transplant.streams import Streams
from coformer_compiler.transplant.values import LARGEST_GRAM, prior_of_heads, values_of_heads

Attending = Attention | CrossAttention
READERS = ("reader", "memory reader")
"""What matches call the linears that read: the stream, and the memory."""


@dataclass(frozen=True)
class Match:
    """How well one linear of a member was matched: held-out R² and the penalty that was chosen."""

    member: int
    block: str
    linear: str
    match: float
    penalty: float


class Beside:
    """What blocks need beside the streams: which tokens are no padding, and, behind an encoder, everyone's memory."""

    def __init__(
        self,
        stem: Stem,
        inputs: torch.Tensor,
        device: torch.device,
        memories: Streams | None = None,
        encoder: Beside | None = None,
    ) -> None:
        """Of the calibration set `inputs`, as the stem reads it; memories are numbered as the streams are."""
        self.whole, self.memories, self.encoder = stem.mask(inputs.to(device)), memories, encoder

    def mask(self, part: slice) -> torch.Tensor | None:
        """Bool `(batch, tokens)`; None where there is no padding."""
        return None if self.whole is None else self.whole[part]

    def memory(self, number: int, part: slice) -> Memory | None:
        """One model's memory; None where there is no encoder behind."""
        if self.memories is None or self.encoder is None:
            return None
        return Memory(self.memories.read(number, part), self.encoder.mask(part))


class Source(NamedTuple):
    """What readers of a member are fitted from.

    Attributes:
        gram: from what the member reads to what the teacher reads, its gain and bias included.
        reading: of what the teacher reads, for ΣY² of any rows of its readers.
        gain: float64 `(d,)`, the gain.
        back: float64 `(d, w)`, what the member reads to what the teacher reads without gain and bias.
    """

    gram: SplitGram
    reading: SplitGram
    gain: torch.Tensor
    back: torch.Tensor


class Pending(NamedTuple):
    """A block of the member whose writer waits: the member's block, the point before it, the teacher's, kept units."""

    local: Residual
    before: int
    block: Residual
    units: list[int]


class Walker:
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
        self.member = Transformer.blank(spec, device).eval()
        self.shares = {share.layer: share for share in policy.layers}
        self.blocks = iter(self.member.steps)
        self.pending: Pending | None = None
        self.matches: list[Match] = []
        self.memory: Source | None = None
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

    def keeps(self, block: Block) -> bool:
        """Whether the member keeps the teacher's layer that the block belongs to; merges and bridges always."""
        return not isinstance(block, Residual) or block.layer in self.shares

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

    def begin_bridge(self) -> Bridge:
        """The member's bridge, whose stem is not its own yet."""
        local = next(self.blocks)
        assert isinstance(local, Bridge)
        self.bridge = local
        return local

    def end_bridge(self, block: Bridge, point: int) -> TokenStem:
        """The decoder's stem as the member's first block behind it sees it."""
        into = self.bases[self._next_point(point + 1)].into
        self.bridge.stem = block.stem.project(into).to(into.device)
        return self.bridge.stem

    def source(self, block: Residual | Bridge, point: int, gram: SplitGram, reading: SplitGram) -> Source:
        """What readers of the block's normed stream are fitted from."""
        back = self.bases[point].back
        return Source(gram, reading, gain_of(block.norm, len(back)).to(back), back)

    def begin_read(self, block: Residual, products: torch.dtype) -> tuple[SplitGram, Residual]:
        """An empty Gram from the member's to the teacher's normed stream, and the member's next block."""
        local = next(self.blocks)
        assert isinstance(local, Residual)
        share = self.shares[block.layer]
        units = {"attention": share.heads, "cross": share.cross, "mlp": share.neurons}[block.kind]
        local.branch = block.branch.with_units(units, local.branch.readers, local.branch.writer)
        self.reading = (local, list(units))
        reader = block.branch.reader
        return SplitGram(local.branch.spec.embed, reader.in_features, reader.weight.device, products), local

    def end_read(self, block: Residual, point: int, gram: SplitGram, reading: SplitGram) -> None:
        """Solve the readers; the writer waits until the teacher's stream reaches the member's next norm."""
        local, units = self.reading
        ours, theirs, rows = local.branch.readers, block.branch.readers, block.branch.reader_rows(units)
        sources = [self.source(block, point, gram, reading), *([] if self.memory is None else [self.memory])]
        for n, reader in enumerate(theirs):
            weight = reader.weight.detach().double()[rows[n]]
            bias = None if reader.bias is None else reader.bias.detach().double()[rows[n]]
            prior = (weight * sources[n].gain) @ sources[n].back
            # ΣY², which costs more than all else here, is needed for the match alone.
            outputs = sources[n].reading if self.sketch is None else None
            fit = ridge(sources[n].gram.mapped(weight, bias, outputs), prior, self.penalties, self.sketch)
            self._set(ours[n], fit, point, READERS[n])
        self.pending = Pending(local, point, block, units)

    def finish_pending(self, streams: Streams, beside: Beside, point: int, teacher: Transformer | None = None) -> None:
        """Solve the pending writer (and shortcut) against the teacher's stream at `point`, then move the member's.

        Args:
            streams: teacher's stream at `point`, member's before the pending block.
            beside: padding and memories.
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
            s, mask, memory = streams.read(self.stream, part), beside.mask(part), beside.memory(self.stream, part)
            normed = local.normed(s)
            mixed = (local.branch.mixed if attention is None else attention.gathered)(normed, mask, memory)
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
            s, mask, memory = streams.read(self.stream, part), beside.mask(part), beside.memory(self.stream, part)
            normed = local.normed(s)
            mixed = mixes[n] if keep else local.branch.mixed(normed, mask, memory)
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

    def _refit_values(self, branch: Attending, gram: SplitGram, prior: torch.Tensor, seen: torch.Tensor) -> Fit:
        """Give the heads values of their own, or leave them the teacher's where these match held-out samples as well.

        Args:
            branch: whose values.
            gram: of the regression on the streams that the heads attend to, behind the shortcut's.
            prior: of the writer of the teacher's values.
            seen: of the regression in `gram`.

        Returns:
            The writer of the values that the branch then has.
        """
        heads, dim, width = branch.spec.heads, branch.spec.head_dim, branch.attended
        skipped, (reader, rows) = seen.shape[1] - heads * width, branch.values
        whole = ridge(gram, seen, self.penalties, self.sketch).weight
        values, writer = values_of_heads(whole[:, skipped:], gram.whole, heads, dim)
        fits = []
        for each, towards in (
            (reader.weight.detach().double()[rows], prior),
            (values, torch.cat([whole[:, :skipped], writer], 1)),
        ):
            through = torch.block_diag(torch.eye(skipped).to(each), *each.split(dim))
            fits.append(ridge(gram.combined(through), towards, self.penalties, self.sketch))
        reader.bias[rows] = 0  # a constant passes the attention, and is in the writer's bias
        if fits[1].match <= fits[0].match:
            return fits[0]
        reader.weight[rows] = values.to(reader.weight)
        return fits[1]

    def features(self, streams: Streams, beside: Beside) -> torch.Tensor:
        """Pooled features `(samples, features)` at the end of the walk."""
        pool = self.member.pool
        return torch.cat([pool(streams.read(self.stream, part), beside.mask(part)) for part in streams.parts()])

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


def _with_values_to_refit(branch: Attending | Mlp, skipped: int) -> Attending | None:
    """The branch, if it gathers values and the regression that finds better ones is of a bearable size."""
    if isinstance(branch, Attending) and branch.spec.heads * branch.attended + skipped <= LARGEST_GRAM:
        return branch
    return None


def _prior_of_heads(branch: Attending, written: torch.Tensor) -> torch.Tensor:
    reader, rows = branch.values
    return prior_of_heads(written, reader.weight.detach().double()[rows], branch.spec.heads)


def _weighted(weights: torch.Tensor | None, mask: torch.Tensor | None) -> torch.Tensor | None:
    """Weights by token `(tokens,)` where there is a token, `(batch, tokens)`."""
    if mask is None or weights is None:
        return weights if mask is None else mask
    return weights * mask
