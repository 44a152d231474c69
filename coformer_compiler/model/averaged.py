"""What a pool averages: the tokens of a batch one after another, without padding."""

from __future__ import annotations

from typing import NamedTuple

import torch

from coformer_compiler.model.merge import PARTS, Merge
from coformer_compiler.model.spec import PoolSpec
from coformer_compiler.model.transformer import Transformer


class Averaged(NamedTuple):
    """A batch before its last step, the mean.

    Attributes:
        tokens: behind the final norm, `(tokens of all samples, features)`, sample by sample.
        lengths: int64 `(batch,)`, how many are of each.
    """

    tokens: torch.Tensor
    lengths: torch.Tensor

    @property
    def samples(self) -> torch.Tensor:
        """The sample that each token is of, int64 `(tokens of all samples,)`."""
        return torch.arange(len(self.lengths), device=self.lengths.device).repeat_interleave(self.lengths)

    def sums(self, values: torch.Tensor) -> torch.Tensor:
        """Of something of each token, `(tokens of all samples, …)`, the sum over each sample, `(batch, …)`."""
        return values.new_zeros(len(self.lengths), *values.shape[1:]).index_add(0, self.samples, values)

    def means(self) -> torch.Tensor:
        """The features `(batch, features)`."""
        return self.sums(self.tokens) / self.lengths[:, None]


def averages(pool: PoolSpec) -> bool:
    """Whether the last step to the features is a mean over tokens."""
    return pool.kind == "mean" and (pool.norm is None or pool.norm_first)


def lengths_of(model: Transformer, inputs: torch.Tensor) -> torch.Tensor:
    """How many tokens of each sample the pool averages, int64 `(batch,)`."""
    mask, skipped = model.stem.mask(inputs), model.pool.spec.count
    if mask is None:
        tokens = model.spec.stem.tokens // PARTS ** sum(isinstance(block, Merge) for block in model.steps)
        return torch.full((len(inputs),), tokens - skipped, device=inputs.device)
    return mask[:, skipped:].sum(1)


def averaged(model: Transformer, inputs: torch.Tensor) -> Averaged:
    """What the pool of a model, for which `averages` holds, averages of these inputs; their means are its features."""
    groups = model.of_like_length(inputs)
    if groups is None:
        return _averaged(model, inputs)
    parts = [_averaged(model, part) for _, part in groups]
    order = torch.cat([rows for rows, _ in groups])
    sample = order.repeat_interleave(torch.cat([part.lengths for part in parts]))
    lengths = lengths_of(model, inputs)
    return Averaged(torch.cat([part.tokens for part in parts])[sample.argsort(stable=True)], lengths)


def _averaged(model: Transformer, inputs: torch.Tensor) -> Averaged:
    flow, pool = model.flow(inputs), model.pool
    rows = flow.x[:, pool.spec.count :]
    rows = rows if pool.norm is None else pool.norm(rows)
    if flow.mask is None:
        return Averaged(rows.flatten(0, 1), lengths_of(model, inputs))
    return Averaged(rows[flow.mask[:, pool.spec.count :]], lengths_of(model, inputs))
