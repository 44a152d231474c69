"""Kernel terms against the costs of real members."""

from __future__ import annotations

import numpy as np
import pytest

from coformer_compiler.decomposer.policy import teacher_shape
from coformer_compiler.decomposer.shapes import MemberShape, aggregator_cost, member_cost
from coformer_compiler.evaluator.latency import head_flops
from coformer_compiler.profiling.draws import drawn_shapes
from coformer_compiler.profiling.table import table_of_shapes
from coformer_compiler.profiling.terms import TERMS, flops_of, kernel_terms, paper_features
from tests.compiler.tiny import VARIANTS, tiny_spec


@pytest.mark.parametrize("kind", VARIANTS)
def test_work_is_that_of_real_members(kind: str) -> None:
    teacher = VARIANTS[kind]
    drawn = drawn_shapes(teacher_shape(teacher), 4, 12, seed=3)
    table = table_of_shapes([s for s, _ in drawn], len(teacher.layers), shortcuts=[flag for _, flag in drawn])
    wanted = [member_cost(teacher, shape, shortcuts=flag).flops for shape, flag in drawn]
    np.testing.assert_array_equal(flops_of(teacher, table), wanted)


@pytest.mark.parametrize("kind", VARIANTS)
def test_work_of_aggregators_is_that_of_heads(kind: str) -> None:
    head = VARIANTS[kind].head
    assert head_flops(head, np.array([30]))[0] == aggregator_cost([10, 20], head).flops


def test_every_term_grows_with_the_member() -> None:
    teacher = tiny_spec(layers=3)
    shapes = [MemberShape(e, dict.fromkeys(range(n), n), dict.fromkeys(range(n), 4 * n)) for n, e in ((1, 4), (3, 12))]
    terms = kernel_terms(teacher, table_of_shapes(shapes, 3, shortcuts=[False, True]))
    assert terms.shape == (2, len(TERMS))
    constant = {"one inference", "input elements"}
    assert all(
        (small == large) if name in constant else (small < large)
        for name, small, large in zip(TERMS, *terms, strict=True)
    )


def test_the_papers_features() -> None:
    shape = MemberShape(8, {0: 1, 2: 3}, {0: 8, 2: 4})
    assert paper_features(table_of_shapes([shape], 3, shortcuts=True)).tolist() == [[2.0, 8.0, 2.0, 6.0]]
