"""Tests of coformer_passes.quantise_gently: as few layers stay in float32 as suffice; what cannot be is an error."""

from __future__ import annotations

import numpy as np
import pytest

from coformer_passes.numerics import relative_difference
from coformer_passes.pipeline import TOLERANCES
from coformer_passes.quantise_gently import legalise_int8
from coformer_passes.quantise_linears import quantise_linears
from coformer_passes.runner import legalise
from coformer_runtime.errors import CoformerError
from coformer_targets import load_target, with_precision

INTEGERS = with_precision(load_target("cpu"), "int8")


@pytest.fixture(scope="module")
def model(transformer):
    return transformer(layers=2, embed=48, heads=3, head_dim=16, mlp=96)


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return {"pixels": np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16), dtype=np.uint8)}


def test_where_all_of_it_holds_nothing_is_left_out(model, golden, op_types) -> None:
    assert op_types(legalise_int8(model, INTEGERS, golden)) == op_types(legalise(model, INTEGERS, golden))


def test_the_layers_that_harm_most_stay_in_float32(model, golden, op_types, outputs, monkeypatch) -> None:
    whole = legalise(model, INTEGERS, golden)
    all_of_them = op_types(whole).count("MatMulInteger")

    def difference(graph) -> float:
        cases = [{"pixels": golden["pixels"][n : n + 1]} for n in range(2)]
        exact, rough = ([{"features": outputs(each, **case)[0]} for case in cases] for each in (model, graph))
        return relative_difference(exact, rough)[0]

    limit = difference(whole) * 0.8
    monkeypatch.setitem(TOLERANCES, quantise_linears, limit)
    gentle = legalise_int8(model, INTEGERS, golden)
    assert 0 < op_types(gentle).count("MatMulInteger") < all_of_them
    assert difference(gentle) <= limit


def test_where_nothing_suffices_it_is_refused(model, golden, monkeypatch) -> None:
    monkeypatch.setitem(TOLERANCES, quantise_linears, -1.0)
    with pytest.raises(CoformerError) as caught:
        legalise_int8(model, INTEGERS, golden)
    assert str(caught.value) == (
        "quantise_linears: each of its 12 linear layers changes the output too much in int8, even alone; "
        "leave the precision float32"
    )
