"""Ridge regression from streamed sums against dense solves in float64."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from coformer_compiler.transplant.regression import PENALTIES, Gram, SplitGram, held_out, ridge

SUMS = ("xx", "xy", "x", "y", "yy")


class Problem(NamedTuple):
    """Rows of a regression with a mean, columns of unlike scale, noise, and a prior that is near the truth."""

    x: torch.Tensor
    y: torch.Tensor
    prior: torch.Tensor

    @property
    def held_out(self) -> torch.Tensor:
        return torch.arange(len(self.x)) % 5 == 4


def random_problem(seed: int, rows: int = 60, inputs: int = 7, outputs: int = 4, noise: float = 1.0) -> Problem:
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    x = normal(rows, inputs) @ normal(inputs, inputs) + 3 * normal(inputs)
    truth = normal(outputs, inputs)
    return Problem(x, x @ truth.T + normal(outputs) + noise * normal(rows, outputs), truth + 0.5 * normal(*truth.shape))


def gram_of(problem: Problem, batch: int = 1000, weights: torch.Tensor | None = None) -> SplitGram:
    gram = SplitGram(problem.x.shape[1], problem.y.shape[1])
    for first in range(0, len(problem.x), batch):
        part = slice(first, first + batch)
        gram.add(problem.x[part], problem.y[part], first, weights)
    return gram


def dense(
    x: torch.Tensor, y: torch.Tensor, penalty: float, prior: torch.Tensor | None
) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias of the penalised problem as one least squares problem with more rows."""
    centred_x, centred_y = (x - x.mean(0)).numpy(), (y - y.mean(0)).numpy()
    strength = penalty * np.mean(np.sum(centred_x**2, 0))
    root, inputs = np.sqrt(strength), x.shape[1]
    towards = np.zeros((inputs, y.shape[1])) if prior is None else prior.T.numpy()
    weight, *_ = np.linalg.lstsq(
        np.vstack([centred_x, root * np.eye(inputs)]), np.vstack([centred_y, root * towards]), rcond=None
    )
    return weight.T, y.mean(0).numpy() - weight.T @ x.mean(0).numpy()


@pytest.mark.parametrize("with_prior", [False, True])
@pytest.mark.parametrize("penalty", [1e-7, 1e-3, 1.0, 100.0])
def test_a_given_penalty_is_the_dense_solution(penalty: float, with_prior: bool) -> None:
    problem = random_problem(0)
    prior = problem.prior if with_prior else None
    fit = ridge(gram_of(problem), prior, [penalty])
    weight, bias = dense(problem.x, problem.y, penalty, prior)
    assert fit.penalty == penalty
    assert fit.weight.dtype == fit.bias.dtype == torch.float64
    np.testing.assert_allclose(fit.weight.numpy(), weight, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(fit.bias.numpy(), bias, rtol=1e-7, atol=1e-7)


def test_without_a_prior_it_is_scikit_learns() -> None:
    problem = random_problem(1)
    fit = ridge(gram_of(problem), None, [0.03])
    strength = 0.03 * float((problem.x - problem.x.mean(0)).square().sum(0).mean())
    reference = Ridge(alpha=strength).fit(problem.x.numpy(), problem.y.numpy())
    np.testing.assert_allclose(fit.weight.numpy(), reference.coef_, atol=1e-8)
    np.testing.assert_allclose(fit.bias.numpy(), reference.intercept_, atol=1e-8)


@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([0.0, 0.3, 3.0, 30.0]), st.sampled_from([12, 30, 100]))
def test_the_penalty_is_the_best_on_held_out_rows(seed: int, with_prior: bool, noise: float, rows: int) -> None:
    """By brute force: every candidate fitted on the other rows and tried on those."""
    problem = random_problem(seed, rows, noise=noise)
    prior, out = problem.prior if with_prior else None, problem.held_out

    def error(penalty: float) -> float:
        weight, bias = dense(problem.x[~out], problem.y[~out], penalty, prior)
        return float(np.square(problem.x[out].numpy() @ weight.T + bias - problem.y[out].numpy()).sum())

    chosen, best = ridge(gram_of(problem), prior).penalty, min(PENALTIES, key=error)
    assert chosen in PENALTIES
    assert error(chosen) <= error(best) * (1 + 1e-6) + 1e-9


@pytest.mark.parametrize("outputs", [4, 300])
@pytest.mark.parametrize("noise", [0.3, 3.0, 30.0])
def test_a_sketch_chooses_nearly_as_well(outputs: int, noise: float) -> None:
    problem = random_problem(11, 200, inputs=20, outputs=outputs, noise=noise)
    gram, out = gram_of(problem), problem.held_out

    def error(penalty: float) -> float:
        weight, bias = dense(problem.x[~out], problem.y[~out], penalty, problem.prior)
        return float(np.square(problem.x[out].numpy() @ weight.T + bias - problem.y[out].numpy()).sum())

    whole, sketched = ridge(gram, problem.prior), ridge(gram, problem.prior, sketch=64)
    assert error(sketched.penalty) <= 1.01 * error(whole.penalty)
    assert np.isnan(sketched.match)
    same = ridge(gram, problem.prior, [sketched.penalty])
    torch.testing.assert_close(sketched.weight, same.weight)


def test_noise_asks_for_a_stronger_penalty() -> None:
    weak, strong = (ridge(gram_of(random_problem(2, 40, noise=noise))).penalty for noise in (1e-6, 100.0))
    assert weak <= 1e-5
    assert strong >= 0.1


@pytest.mark.parametrize("penalty", PENALTIES)
def test_a_prior_that_is_right_stays(penalty: float) -> None:
    """At full size the projected teacher is the answer; no penalty may move it."""
    problem = random_problem(3)
    exact = Problem(problem.x, problem.x @ problem.prior.T + 5, problem.prior)
    fit = ridge(gram_of(exact), problem.prior, [penalty])
    torch.testing.assert_close(fit.weight, problem.prior, atol=1e-9, rtol=0)
    torch.testing.assert_close(fit.bias, torch.full((4,), 5.0, dtype=torch.float64), atol=1e-8, rtol=0)
    assert fit.match == pytest.approx(1)


@given(
    st.integers(0, 10**6),
    st.lists(st.integers(1, 25), min_size=1, max_size=6),
    st.lists(st.integers(0, 6), min_size=1, max_size=7, unique=True),
    st.booleans(),
)
def test_streaming_selecting_and_merging(seed: int, sizes: list[int], columns: list[int], weighted: bool) -> None:
    """Any batches, then any columns, equal the sums over all rows of those columns at once."""
    problem, tokens = random_problem(seed, 3 * sum(sizes)), 3
    x, y = (each.reshape(-1, tokens, each.shape[-1]) for each in problem[:2])
    weights = torch.tensor([0.5, 2.0, 0.25]) if weighted else None
    gram, first = SplitGram(7, 4), 0
    for size in sizes:
        gram.add(x[first : first + size], y[first : first + size], first, weights)
        first += size
    once = SplitGram(len(columns), 4)
    once.add(x[..., columns], y, 0, weights)
    picked = gram.select(columns)
    for a, b in ((picked.fit, once.fit), (picked.held_out, once.held_out)):
        assert a.rows == pytest.approx(b.rows)
        for name in SUMS:
            torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=1e-9, atol=1e-9)
    both = Gram(len(columns), 4)
    both.add(x[..., columns], y, weights)
    assert picked.whole.rows == pytest.approx(both.rows)
    for name in SUMS:
        torch.testing.assert_close(getattr(picked.whole, name), getattr(both, name), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("biased", [True, False])
def test_mapped_outputs_are_as_if_they_had_been_added(biased: bool) -> None:
    """Any linear of a normed stream follows from one Gram of that stream."""
    problem, random = random_problem(4), torch.Generator().manual_seed(0)
    weight = torch.randn(5, 4, generator=random, dtype=torch.float64)
    bias = torch.randn(5, generator=random, dtype=torch.float64) if biased else None
    wanted = problem.y @ weight.T + (0 if bias is None else bias)
    outputs = SplitGram(4, 0)
    outputs.add(problem.y, problem.y[:, :0], 0)
    mapped = gram_of(problem).mapped(weight, bias, outputs)
    bare = gram_of(problem).mapped(weight, bias, None).whole
    torch.testing.assert_close(bare.xy, mapped.whole.xy)
    assert bare.yy.isnan().all()
    direct = SplitGram(7, 5)
    direct.add(problem.x, wanted, 0)
    for a, b in ((mapped.fit, direct.fit), (mapped.held_out, direct.held_out)):
        for name in SUMS:
            torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=1e-8, atol=1e-8)


def test_products_in_float32_are_summed_in_float64() -> None:
    problem = random_problem(4)
    quick = SplitGram(7, 4, products=torch.float32)
    quick.add(problem.x, problem.y, 0)
    assert quick.whole.xx.dtype == torch.float64
    torch.testing.assert_close(quick.whole.xx, gram_of(problem).whole.xx, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(ridge(quick).weight, ridge(gram_of(problem)).weight, rtol=1e-3, atol=1e-3)


def test_weights_are_as_many_rows() -> None:
    """A token of weight three counts like three equal tokens."""
    problem = random_problem(5, 60)
    x, y = (each.reshape(20, 3, -1) for each in problem[:2])
    copies = torch.tensor([1, 3, 2])
    weighted, repeated = SplitGram(7, 4), SplitGram(7, 4)
    weighted.add(x, y, 0, copies.double())
    repeated.add(x.repeat_interleave(copies, 1), y.repeat_interleave(copies, 1), 0)
    a, b = ridge(weighted, problem.prior), ridge(repeated, problem.prior)
    assert weighted.fit.rows == repeated.fit.rows
    assert a.penalty == b.penalty
    torch.testing.assert_close(a.weight, b.weight, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(a.bias, b.bias, rtol=1e-8, atol=1e-8)
    assert a.match == pytest.approx(b.match)


@given(st.integers(0, 20), st.integers(1, 40))
def test_every_fifth_sample_is_held_out_wherever_batches_end(first: int, count: int) -> None:
    numbers = list(range(first, first + count))
    assert numbers[held_out(first)] == [number for number in numbers if number % 5 == 4]


def test_samples_are_held_out_whole() -> None:
    x, y = torch.randn(10, 6, 2), torch.randn(10, 6, 3)
    gram = SplitGram(2, 3)
    gram.add(x, y, 0)
    assert (gram.fit.rows, gram.held_out.rows) == (48, 12)
    torch.testing.assert_close(gram.held_out.x, x[[4, 9]].double().sum((0, 1)))


@pytest.mark.parametrize("rows", [2, 4, 5, 8])
def test_few_rows_stay_near_the_prior(rows: int) -> None:
    """Fewer than two held out: nothing to choose by."""
    problem = random_problem(6, rows)
    fit = ridge(gram_of(problem), problem.prior)
    assert fit.penalty == 1.0
    assert fit.match == 1.0
    weight, bias = dense(problem.x, problem.y, 1.0, problem.prior)
    np.testing.assert_allclose(fit.weight.numpy(), weight, atol=1e-7)
    np.testing.assert_allclose(fit.bias.numpy(), bias, atol=1e-7)


@pytest.mark.parametrize("rows", [0, 1])
def test_a_row_or_none_gives_the_prior(rows: int) -> None:
    problem = random_problem(7, rows)
    fit = ridge(gram_of(problem), problem.prior)
    torch.testing.assert_close(fit.weight, problem.prior)
    want = (problem.y - problem.x @ problem.prior.T).sum(0)
    torch.testing.assert_close(fit.bias, want)


@pytest.mark.parametrize("kind", ["constant", "copies", "zero sum", "more columns than rows", "all zero"])
def test_singular_problems_have_a_finite_answer(kind: str) -> None:
    x, y, prior = random_problem(8, 12 if kind == "more columns than rows" else 60, 20)
    if kind == "constant":
        x[:, 3] = 7
    elif kind == "copies":
        x[:, 3] = x[:, 5]
    elif kind == "zero sum":
        x -= x.mean(1, keepdim=True)
    elif kind == "all zero":
        x *= 0
    fit = ridge(gram_of(Problem(x, y, prior)), prior)
    assert fit.weight.isfinite().all()
    assert fit.bias.isfinite().all()
    assert fit.weight.abs().max() < 100
    got = x @ fit.weight.T + fit.bias
    plain = x @ prior.T
    assert (got - y).square().sum() <= (plain + (y - plain).mean(0) - y).square().sum() * (1 + 1e-9)


def test_match_is_the_share_of_variance_on_held_out_rows() -> None:
    """Of a fit that has not seen them; the returned weights have."""
    problem = random_problem(9, 100, noise=2.0)
    fit, out = ridge(gram_of(problem)), problem.held_out
    x, y = problem.x[~out], problem.y[~out]
    centred = x - x.mean(0)
    gram = centred.T @ centred
    penalty = fit.penalty * gram.diagonal().mean()
    weight = torch.linalg.solve(gram + penalty * torch.eye(len(gram), dtype=gram.dtype), centred.T @ y).T
    bias = y.mean(0) - weight @ x.mean(0)
    x, y = problem.x[out], problem.y[out]
    error = (x @ weight.T + bias - y).square().sum()
    assert fit.match == pytest.approx(float(1 - error / (y - y.mean(0)).square().sum()))
    assert 0.2 < fit.match < 0.999


def test_float32_rows_are_summed_in_float64() -> None:
    """A mean a thousand times the spread costs nothing that float32 held."""
    x, y, _ = random_problem(10, 400, noise=0)
    x = (x + 1000).float()
    y = x.double() @ random_problem(10).prior.T
    gram = SplitGram(7, 4)
    for first in range(0, 400, 32):
        gram.add(x[first : first + 32], y[first : first + 32], first)
    fit = ridge(gram, None, (1e-9,))
    torch.testing.assert_close(fit.weight, random_problem(10).prior, atol=1e-4, rtol=0)
