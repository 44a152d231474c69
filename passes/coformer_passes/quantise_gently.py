"""Legal in int8 where all of a graph at once would differ too much: what harms it most stays in float32.

Not a pass: it needs the golden inputs, and runs the pipeline more than once.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from coformer_passes.numerics import cases_of, first_cases, outputs_of, proto_without_weights, relative_difference
from coformer_passes.pipeline import TOLERANCES
from coformer_passes.quantise_linears import FLOAT32, PRECISION, quantisable, quantise_linears
from coformer_passes.rewriting import name_of
from coformer_passes.runner import legalise
from coformer_runtime.errors import CheckFailed, CoformerError
from coformer_targets import Target, with_precision

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import onnx_ir as ir

    from coformer_passes.numerics import Golden
    from coformer_passes.runner import PassRecord

CASES = 2
_log = logging.getLogger(__name__)


def legalise_int8(
    model: ir.Model, target: Target, golden: Golden, *, record: Callable[[PassRecord], None] | None = None
) -> ir.Model:
    """`legalise` for a target that computes in int8.

    Where the whole graph in int8 stays within what `quantise_linears` may cause, that is all. Else each linear layer is
    quantised alone, and those that move the outputs most stay in float32, as few as suffice: a layer may cancel
    large numbers, or multiply what a wider one before it leaves out, and no scale of 8 bits serves it.

    Raises:
        CoformerError: even one layer is too much; or see `legalise`.
    """
    try:
        return legalise(model, target, golden, record=record)
    except CheckFailed as error:
        if error.where != quantise_linears.__name__:
            raise
    plain = legalise(model, with_precision(target, "float32"), golden, record=record)
    names = [name_of(node) for node in quantisable(plain)]
    harm = {name: _difference(plain, target, golden, [name]) for name in names}
    order = sorted(names, key=lambda name: (-harm[name], name))
    low, high = 0, len(order)  # of the first so many, staying in float32, `low` were too few
    while high - low > 1:
        middle = (low + high) // 2
        if _difference(plain, target, golden, order[middle:]) <= TOLERANCES[quantise_linears] / 2:
            high = middle
        else:
            low = middle
    if high == len(order):
        raise CoformerError(
            f"each of its {high} linear layers changes the output too much in int8, even alone",
            quantise_linears.__name__,
            "leave the precision float32",
        )
    _keep(plain, order[:high])
    _log.info("%d of %d linear layers stay in float32: %s", high, len(order), ", ".join(order[:high]))
    return legalise(plain, target, golden, passes=(quantise_linears,), record=record)


def _difference(plain: ir.Model, target: Target, golden: Golden, quantised: Collection[str]) -> float:
    """What quantising these layers alone does to the outputs, relative to their magnitude."""
    changed = plain.clone()
    _keep(changed, [name_of(node) for node in quantisable(changed) if name_of(node) not in quantised])
    quantise_linears(changed, target)
    before, after = (_outputs(each, golden) for each in (plain, changed))
    return relative_difference(before, after)[0]


def _outputs(model: ir.Model, golden: Golden) -> list[dict[str, np.ndarray]]:
    proto, weights = proto_without_weights(model)
    return outputs_of(proto, weights, cases_of(first_cases(golden, CASES), model), "quantise_gently")


def _keep(model: ir.Model, names: Sequence[str]) -> None:
    for node in model.graph:
        if name_of(node) in names:
            node.metadata_props[PRECISION] = FLOAT32
