"""Ridge regression from streamed sufficient statistics.

Every weight that the transplant computes is the solution of one such problem. The penalty pulls towards given weights
(the teacher's, projected) instead of towards zero: at full size those are exact already and stay so, and a penalty of
any strength never loses what the projection knew. The strength is chosen on held-out samples.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

PENALTIES = tuple(10.0**e for e in (-5, -4.5, -4, -3.5, -3, -2.5, -2, -1.5, -1, -0.5, 0, 1, 2))
"""Candidates, relative to the mean variance of the inputs. Weaker ones let weights on nearly collinear inputs grow
until float32 engines no longer give the same digits."""


class Gram:
    """Sufficient statistics of a regression of `outputs` columns on `inputs` columns, in float64.

    Holds XᵀX, XᵀY, the column sums and ΣY², each row times its weight; rows are never kept, so memory does not grow
    with the number of samples. `rows` is the sum of the weights.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        device: torch.device | str = "cpu",
        products: torch.dtype = torch.float64,
    ) -> None:
        """No rows yet; `products` is what the products of one batch are computed in."""
        self.rows, self.products = 0.0, products
        self.xx = torch.zeros(inputs, inputs, dtype=torch.float64, device=device)
        self.xy = torch.zeros(inputs, outputs, dtype=torch.float64, device=device)
        self.x = torch.zeros(inputs, dtype=torch.float64, device=device)
        self.y = torch.zeros(outputs, dtype=torch.float64, device=device)
        self.yy = torch.zeros(outputs, dtype=torch.float64, device=device)

    def add(self, x: torch.Tensor, y: torch.Tensor, weights: torch.Tensor | None = None) -> None:
        """Add rows: `x` `(…, inputs)` and `y` `(…, outputs)` with equal leading axes, which `weights` broadcasts to."""
        lead = x.shape[:-1]
        x = x.reshape(-1, x.shape[-1]).to(self.products)
        y = y.reshape(len(x), y.shape[-1]).to(self.products)
        if weights is None:
            column, weighted = x.new_ones(len(x)), x
            self.rows += len(x)
        else:
            column = weights.to(self.products).expand(lead).reshape(-1)
            weighted = x * column[:, None]
            self.rows += float(column.sum(dtype=torch.float64))
        self.xx += weighted.T @ x
        self.xy += weighted.T @ y
        self.x += column @ x
        self.y += column @ y
        self.yy += column @ y.square()

    def without(self, other: Gram) -> Gram:
        """The statistics of the rows that are not among `other`'s, which are some of these."""
        made = Gram(0, 0)
        made.rows = self.rows - other.rows
        for name in SUMS:
            setattr(made, name, getattr(self, name) - getattr(other, name))
        return made

    def select(self, columns: Sequence[int]) -> Gram:
        """The statistics of the same rows with only the given input columns."""
        index = torch.as_tensor(list(columns), device=self.xx.device)
        made = Gram(0, 0)
        made.rows, made.y, made.yy = self.rows, self.y, self.yy
        made.xx, made.xy, made.x = self.xx[index][:, index], self.xy[index], self.x[index]
        return made

    def mapped(self, weight: torch.Tensor, bias: torch.Tensor | None, outputs: Gram | None) -> Gram:
        """The statistics of the same inputs with `weight · y + bias` for outputs.

        Args:
            weight: `(outputs, these outputs)`, float64.
            bias: `(outputs,)` or None.
            outputs: the Gram that has these outputs as its inputs; for ΣY² of the new ones, which are nan without it.
        """
        made = Gram(0, 0)
        made.rows, made.xx, made.x = self.rows, self.xx, self.x
        made.xy, made.y = self.xy @ weight.T, weight @ self.y
        made.yy = torch.full_like(made.y, math.nan) if outputs is None else ((weight @ outputs.xx) * weight).sum(1)
        if bias is not None:
            made.yy = made.yy + 2 * bias * made.y + self.rows * bias.square()
            made.xy, made.y = made.xy + torch.outer(self.x, bias), made.y + self.rows * bias
        return made

    def combined(self, weight: torch.Tensor) -> Gram:
        """The statistics of the same rows with `weight · x` for inputs; `weight` `(inputs, these inputs)`."""
        made = Gram(0, 0)
        made.rows, made.y, made.yy = self.rows, self.y, self.yy
        made.xx, made.xy, made.x = weight @ self.xx @ weight.T, weight @ self.xy, weight @ self.x
        return made


SUMS = ("xx", "xy", "x", "y", "yy")


class SplitGram:
    """Two Grams: of all samples, and of every fifth, which is held out to choose the penalty by."""

    HOLD_OUT = 5

    def __init__(
        self,
        inputs: int,
        outputs: int,
        device: torch.device | str = "cpu",
        products: torch.dtype = torch.float64,
    ) -> None:
        """No rows yet; for `products` see `Gram`."""
        self.whole = Gram(inputs, outputs, device, products)
        self.held_out = Gram(inputs, outputs, device, products)

    @property
    def fit(self) -> Gram:
        """The samples that are not held out."""
        return self.whole.without(self.held_out)

    def add(self, x: torch.Tensor, y: torch.Tensor, first: int, weights: torch.Tensor | None = None) -> None:
        """Add the samples `first`, `first + 1`, … of the calibration set.

        Args:
            x: `(batch, …, inputs)`.
            y: `(batch, …, outputs)`.
            first: number of the first sample.
            weights: of the axes between, `(…)`, or of these in every sample, `(batch, …)`; one where None.
        """
        out = held_out(first)
        by_sample = weights is not None and weights.ndim == x.ndim - 1
        self.whole.add(x, y, weights)
        self.held_out.add(x[out], y[out], weights[out] if weights is not None and by_sample else weights)

    def select(self, columns: Sequence[int]) -> SplitGram:
        """Both Grams with only the given input columns."""
        return _split(self.whole.select(columns), self.held_out.select(columns))

    def mapped(self, weight: torch.Tensor, bias: torch.Tensor | None, outputs: SplitGram | None) -> SplitGram:
        """Both Grams with mapped outputs, see `Gram.mapped`."""
        whole, out = (None, None) if outputs is None else (outputs.whole, outputs.held_out)
        return _split(self.whole.mapped(weight, bias, whole), self.held_out.mapped(weight, bias, out))

    def combined(self, weight: torch.Tensor) -> SplitGram:
        """Both Grams with combined inputs, see `Gram.combined`."""
        return _split(self.whole.combined(weight), self.held_out.combined(weight))


def _split(whole: Gram, held_out: Gram) -> SplitGram:
    made = SplitGram(0, 0)
    made.whole, made.held_out = whole, held_out
    return made


def held_out(first: int) -> slice:
    """Which of the samples `first`, `first + 1`, … are held out, as a slice of them."""
    return slice((-1 - first) % SplitGram.HOLD_OUT, None, SplitGram.HOLD_OUT)


@dataclass(frozen=True)
class Fit:
    """A fitted linear.

    Attributes:
        weight: float64 `(outputs, inputs)`.
        bias: float64 `(outputs,)`.
        penalty: the chosen strength, relative to the mean of the diagonal of the centred XᵀX.
        match: R² on the held-out samples of the same fit without them (at most 1; 1 where nothing was held out, nan
            where the penalty was chosen on a sketch).
    """

    weight: torch.Tensor
    bias: torch.Tensor
    penalty: float
    match: float


def ridge(
    gram: SplitGram,
    prior: torch.Tensor | None = None,
    penalties: Sequence[float] = PENALTIES,
    sketch: int | None = None,
) -> Fit:
    """Minimise ‖Y − XWᵀ − b‖² + λ‖W − prior‖² with λ chosen on the held-out rows, then fitted on all rows.

    Args:
        gram: statistics of X and Y.
        prior: `(outputs, inputs)` to pull towards; zero where None.
        penalties: candidates for λ, relative to the mean diagonal, ascending.
        sketch: choose λ on so many random directions of Y, in float32, in place of all its columns, and look only
            downhill from the middle candidate; see `_sketched`.
    """
    fit = gram.fit
    if gram.held_out.rows < 2 or fit.rows < 2:
        # Nothing to choose by, so the strongest prior that still lets large effects through.
        penalty, match = 1.0, 1.0
    elif sketch is None:
        penalty, match = _chosen_on_held_out(fit, gram.held_out, prior, penalties)
    else:
        towards = fit.xy.new_zeros(fit.xy.shape).T if prior is None else prior.to(fit.xy)
        penalty, match = _walked_down(_sketched(fit, gram.held_out, towards, sketch), penalties), math.nan
    xx, xy = _centred(gram.whole, prior)
    departure = _departure(xx, xy, penalty)
    while departure is None:
        penalty *= 10
        departure = _departure(xx, xy, penalty)
    return Fit(*_with_bias(gram.whole, departure, prior), penalty, match)


def _centred(gram: Gram, prior: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """XᵀX and XᵀY − XᵀX·priorᵀ, centred."""
    mean = gram.x / max(gram.rows, 1)
    xx = gram.xx - torch.outer(gram.x, mean)
    xy = gram.xy - torch.outer(mean, gram.y)
    return xx, xy if prior is None else xy - xx @ prior.to(xx).T


def _departure(xx: torch.Tensor, xy: torch.Tensor, penalty: float) -> torch.Tensor | None:
    """(W − prior)ᵀ `(inputs, outputs)`; None where rounding has left XᵀX too indefinite for this penalty."""
    diagonal = xx.diagonal()
    strength = penalty * diagonal.mean().clamp(min=torch.finfo(xx.dtype).tiny)
    factor, failed = torch.linalg.cholesky_ex(torch.diagonal_scatter(xx, diagonal + strength))
    return None if int(failed) else torch.cholesky_solve(xy, factor)


def _with_bias(gram: Gram, departure: torch.Tensor, prior: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    weight = departure.T if prior is None else departure.T + prior.to(departure)
    return weight, (gram.y - weight @ gram.x) / max(gram.rows, 1)


class _Choice(NamedTuple):
    """Sums that λ is chosen by: of the rows that are fitted and of those held out, centred, less the prior's part."""

    fit_xx: torch.Tensor
    fit_xy: torch.Tensor
    out_xx: torch.Tensor
    out_xy: torch.Tensor


def _chosen_on_held_out(
    fit: Gram, out: Gram, prior: torch.Tensor | None, penalties: Sequence[float]
) -> tuple[float, float]:
    """The candidate with the least squared error on the held-out rows, and the R² there of the fit without them."""
    fit_xx, fit_xy = _centred(fit, prior)
    xx, xy = _held_out_sums(fit, out)
    if prior is not None:
        xy = xy - xx @ prior.to(xx).T
    departure, penalty = _least_error(_Choice(fit_xx, fit_xy, xx, xy), penalties)
    return penalty, 1.0 if departure is None else _match(out, *_with_bias(fit, departure, prior))


def _held_out_sums(fit: Gram, out: Gram) -> tuple[torch.Tensor, torch.Tensor]:
    """XᵀX and XᵀY of the held-out rows around the means of the others."""
    mean_x, mean_y = fit.x / fit.rows, fit.y / fit.rows
    cross = torch.outer(out.x, mean_x)
    xx = out.xx - cross - cross.T + out.rows * torch.outer(mean_x, mean_x)
    xy = out.xy - torch.outer(out.x, mean_y) - torch.outer(mean_x, out.y) + out.rows * torch.outer(mean_x, mean_y)
    return xx, xy


def _sketched(fit: Gram, out: Gram, prior: torch.Tensor, directions: int) -> _Choice:
    """The sums for random directions of Y, the same ones for every λ.

    The squared error over k of them is that over all columns up to a factor near one (Johnson and Lindenstrauss, 1984),
    which all candidates share for the most part; the products that grow with the columns of Y are spared.
    """
    mix = _signs(fit.xy.shape[1], directions).to(fit.xy)
    mixed_prior = prior.T @ mix
    mean_x = fit.x / fit.rows
    fit_xx = fit.xx - torch.outer(fit.x, mean_x)
    fit_xy = fit.xy @ mix - torch.outer(mean_x, fit.y @ mix) - fit_xx @ mixed_prior
    mixed = Gram(0, 0)
    mixed.rows, mixed.xx, mixed.x = out.rows, out.xx, out.x
    mixed.xy, mixed.y = out.xy @ mix, out.y @ mix
    centre = Gram(0, 0)
    centre.rows, centre.x, centre.y = fit.rows, fit.x, fit.y @ mix
    xx, xy = _held_out_sums(centre, mixed)
    return _Choice(*(each.float() for each in (fit_xx, fit_xy, xx, xy - xx @ mixed_prior)))


@functools.cache
def _signs(outputs: int, directions: int) -> torch.Tensor:
    """Random signs `(outputs, directions)`; all outputs themselves where there are no more of them."""
    if outputs <= 2 * directions:
        return torch.eye(outputs, dtype=torch.float64)
    random = torch.Generator().manual_seed(outputs)
    return torch.randint(0, 2, (outputs, directions), generator=random).double() * 2 - 1


def _least_error(sums: _Choice, penalties: Sequence[float]) -> tuple[torch.Tensor | None, float]:
    """The candidate of the least squared error on the held-out rows, and its departure from the prior."""
    best: tuple[float, float, torch.Tensor] | None = None
    for penalty in penalties:
        error, departure = _error(sums, penalty)
        if departure is not None and (best is None or error < best[0]):
            best = (error, penalty, departure)
    return (None, penalties[-1]) if best is None else (best[2], best[1])


def _walked_down(sums: _Choice, penalties: Sequence[float]) -> float:
    """`_least_error` where the error falls to one least value and rises again: from the middle, downhill."""
    errors: dict[int, float] = {}

    def error(n: int) -> float:
        if n not in errors:
            errors[n] = _error(sums, penalties[n])[0] if 0 <= n < len(penalties) else math.inf
        return errors[n]

    here = len(penalties) // 2
    step = 1 if error(here + 1) < error(here) else -1
    while error(here + step) < error(here):
        here += step
    return penalties[-1] if error(here) == math.inf else penalties[here]


def _error(sums: _Choice, penalty: float) -> tuple[float, torch.Tensor | None]:
    """Squared error on the held-out rows, up to a constant, and the departure from the prior.

    Infinite and None where the penalty is too weak for float arithmetic.
    """
    departure = _departure(sums.fit_xx, sums.fit_xy, penalty)
    if departure is None:
        return math.inf, None
    return float((departure * (sums.out_xx @ departure - 2 * sums.out_xy)).sum()), departure


def _match(gram: Gram, weight: torch.Tensor, bias: torch.Tensor) -> float:
    if gram.rows < 2:
        return 1.0
    variance = float((gram.yy - gram.y.square() / gram.rows).sum())
    fitted = (weight @ gram.xx * weight).sum() + 2 * (weight @ gram.x) @ bias + gram.rows * bias.square().sum()
    error = gram.yy.sum() - 2 * (weight.T * gram.xy).sum() - 2 * bias @ gram.y + fitted
    return 1.0 if variance <= 0 else 1 - float(error) / variance
