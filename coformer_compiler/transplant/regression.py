"""Ridge regression from streamed sufficient statistics.

Every weight that the transplant computes is the solution of one such problem. The penalty pulls towards given weights
(the teacher's, projected) instead of towards zero: at full size those are exact already and stay so, and a penalty of
any strength never loses what the projection knew. The strength is chosen on held-out samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

PENALTIES = tuple(10.0**e for e in (-5, -4.5, -4, -3.5, -3, -2.5, -2, -1.5, -1, -0.5, 0, 1, 2))
"""Candidates, relative to the mean variance of the inputs. Weaker ones let weights on nearly collinear inputs grow
until float32 engines no longer give the same digits."""

Decomposed = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Gram:
    """Sufficient statistics of a regression of `outputs` columns on `inputs` columns, in float64.

    Holds XᵀX, XᵀY, the column sums and ΣY², each row times its weight; rows are never kept, so memory does not grow
    with the number of samples. `rows` is the sum of the weights.
    """

    def __init__(self, inputs: int, outputs: int, device: torch.device | str = "cpu") -> None:
        """No rows yet."""
        self.rows = 0.0
        self.xx = torch.zeros(inputs, inputs, dtype=torch.float64, device=device)
        self.xy = torch.zeros(inputs, outputs, dtype=torch.float64, device=device)
        self.x = torch.zeros(inputs, dtype=torch.float64, device=device)
        self.y = torch.zeros(outputs, dtype=torch.float64, device=device)
        self.yy = torch.zeros(outputs, dtype=torch.float64, device=device)

    def add(self, x: torch.Tensor, y: torch.Tensor, weights: torch.Tensor | None = None) -> None:
        """Add rows: `x` `(…, inputs)` and `y` `(…, outputs)` with equal leading axes, which `weights` broadcasts to."""
        lead = x.shape[:-1]
        x, y = x.reshape(-1, x.shape[-1]).double(), y.reshape(-1, y.shape[-1]).double()
        weighted = x
        if weights is None:
            self.rows += len(x)
            self.y += y.sum(0)
            self.yy += y.square().sum(0)
        else:
            column = weights.double().expand(lead).reshape(-1, 1)
            weighted = x * column
            self.rows += float(column.sum())
            self.y += (y * column).sum(0)
            self.yy += (y.square() * column).sum(0)
        self.xx += weighted.T @ x
        self.xy += weighted.T @ y
        self.x += weighted.sum(0)

    def merged(self, other: Gram) -> Gram:
        """The statistics of both sets of rows."""
        made = Gram(0, 0)
        made.rows = self.rows + other.rows
        for name in ("xx", "xy", "x", "y", "yy"):
            setattr(made, name, getattr(self, name) + getattr(other, name))
        return made

    def select(self, columns: Sequence[int]) -> Gram:
        """The statistics of the same rows with only the given input columns."""
        index = torch.as_tensor(list(columns), device=self.xx.device)
        made = Gram(0, 0)
        made.rows, made.y, made.yy = self.rows, self.y, self.yy
        made.xx, made.xy, made.x = self.xx[index][:, index], self.xy[index], self.x[index]
        return made


class SplitGram:
    """Two Grams, one to fit on and one to choose the penalty by: every fifth sample is held out."""

    HOLD_OUT = 5

    def __init__(self, inputs: int, outputs: int, device: torch.device | str = "cpu") -> None:
        """No rows yet."""
        self.fit = Gram(inputs, outputs, device)
        self.held_out = Gram(inputs, outputs, device)

    def add(self, x: torch.Tensor, y: torch.Tensor, first: int, weights: torch.Tensor | None = None) -> None:
        """Add the samples `first`, `first + 1`, … of the calibration set.

        Args:
            x: `(batch, …, inputs)`.
            y: `(batch, …, outputs)`.
            first: number of the first sample.
            weights: of the axes between, `(…)`, or of these in every sample, `(batch, …)`; one where None.
        """
        out = held_out_mask(first, len(x)).to(x.device)
        by_sample = weights is not None and weights.ndim == x.ndim - 1
        for gram, part in ((self.held_out, out), (self.fit, ~out)):
            gram.add(x[part], y[part], weights[part] if weights is not None and by_sample else weights)

    def select(self, columns: Sequence[int]) -> SplitGram:
        """Both Grams with only the given input columns."""
        made = SplitGram(0, 0)
        made.fit, made.held_out = self.fit.select(columns), self.held_out.select(columns)
        return made


def held_out_mask(first: int, count: int) -> torch.Tensor:
    """Which of the samples `first … first + count − 1` are held out, bool `(count,)`."""
    return torch.arange(first, first + count) % SplitGram.HOLD_OUT == SplitGram.HOLD_OUT - 1


@dataclass(frozen=True)
class Fit:
    """A fitted linear.

    Attributes:
        weight: float64 `(outputs, inputs)`.
        bias: float64 `(outputs,)`.
        penalty: the chosen strength, relative to the mean of the diagonal of the centred XᵀX.
        match: R² on the held-out samples of the same fit without them (at most 1; 1 where nothing was held out).
    """

    weight: torch.Tensor
    bias: torch.Tensor
    penalty: float
    match: float


def ridge(gram: SplitGram, prior: torch.Tensor | None = None, penalties: Sequence[float] = PENALTIES) -> Fit:
    """Minimise ‖Y − XWᵀ − b‖² + λ‖W − prior‖² with λ chosen on the held-out rows, then fitted on all rows.

    Args:
        gram: statistics of X and Y.
        prior: `(outputs, inputs)` to pull towards; zero where None.
        penalties: candidates for λ, relative to the mean diagonal.
    """
    if gram.held_out.rows < 2 or gram.fit.rows < 2:
        # Nothing to choose by, so the strongest prior that still lets large effects through.
        penalty, match = 1.0, 1.0
    else:
        penalty, match = _chosen_on_held_out(gram, prior, penalties)
    both = gram.fit.merged(gram.held_out)
    weight, bias = _solved(both, _decomposed(both, prior), prior, penalty)
    return Fit(weight, bias, penalty, match)


def _solved(
    gram: Gram, decomposed: Decomposed, prior: torch.Tensor | None, penalty: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight `(outputs, inputs)` and bias `(outputs,)` for one penalty."""
    values, vectors, right = decomposed
    weight = (vectors @ (right / (values + penalty * _scale(values))[:, None])).T
    if prior is not None:
        weight = weight + prior.to(weight)
    return weight, (gram.y - weight @ gram.x) / max(gram.rows, 1)


def _decomposed(gram: Gram, prior: torch.Tensor | None) -> Decomposed:
    """Eigenvalues and -vectors of the centred XᵀX, and Vᵀ(XᵀY − XᵀX·priorᵀ), centred."""
    mean = gram.x / max(gram.rows, 1)
    xx = gram.xx - torch.outer(gram.x, mean)
    xy = gram.xy - torch.outer(mean, gram.y)
    if prior is not None:
        xy = xy - xx @ prior.to(xx).T
    values, vectors = torch.linalg.eigh(xx)
    return values.clamp(min=0), vectors, vectors.T @ xy


def _scale(values: torch.Tensor) -> torch.Tensor:
    return values.mean().clamp(min=torch.finfo(values.dtype).tiny)


def _chosen_on_held_out(gram: SplitGram, prior: torch.Tensor | None, penalties: Sequence[float]) -> tuple[float, float]:
    """The candidate with the least squared error on the held-out rows, and the R² there of the fit without them.

    With W = prior + (V·D·A)ᵀ, D = diag(1/(e + λ)), the error is quadratic in D's diagonal; its coefficients are
    computed once, so a candidate costs O(inputs²).
    """
    decomposed = _decomposed(gram.fit, prior)
    values, vectors, right = decomposed
    out = gram.held_out
    mean_x, mean_y = gram.fit.x / gram.fit.rows, gram.fit.y / gram.fit.rows
    cross = torch.outer(out.x, mean_x)
    xx = out.xx - cross - cross.T + out.rows * torch.outer(mean_x, mean_x)
    xy = out.xy - torch.outer(out.x, mean_y) - torch.outer(mean_x, out.y) + out.rows * torch.outer(mean_x, mean_y)
    if prior is not None:
        xy = xy - xx @ prior.to(xx).T
    linear = (right * (vectors.T @ xy)).sum(1)
    square = (vectors.T @ xx @ vectors) * (right @ right.T)

    def error(penalty: float) -> float:
        shrink = 1 / (values + penalty * _scale(values))
        return float(shrink @ square @ shrink - 2 * shrink @ linear)

    penalty = min(penalties, key=error)
    return penalty, _match(out, *_solved(gram.fit, decomposed, prior, penalty))


def _match(gram: Gram, weight: torch.Tensor, bias: torch.Tensor) -> float:
    if gram.rows < 2:
        return 1.0
    variance = float((gram.yy - gram.y.square() / gram.rows).sum())
    fitted = (weight @ gram.xx * weight).sum() + 2 * (weight @ gram.x) @ bias + gram.rows * bias.square().sum()
    error = gram.yy.sum() - 2 * (weight.T * gram.xy).sum() - 2 * bias @ gram.y + fitted
    return 1.0 if variance <= 0 else 1 - float(error) / variance
