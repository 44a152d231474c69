"""Runs a pipeline over a clone of the graph and holds each pass to its contract.

After every pass: the `modified` flag must be the truth, and onnx.checker must accept the graph. Numerics are compared
through ONNX Runtime on the golden inputs, after every pass that changed something (`verify="each"`) or once after
the last (`verify="end"`; where that differs the pipeline is run again with "each", so that the pass is named anyway).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import onnx_ir as ir

from coformer_passes.numerics import (
    cases_of,
    check_structure,
    computes_in_halves,
    first_cases,
    outputs_of,
    proto_without_weights,
    relative_difference,
    with_rounding,
)
from coformer_passes.pipeline import PIPELINES, TOLERANCES
from coformer_runtime.errors import CheckFailed
from coformer_targets import Target

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from coformer_passes.numerics import Arrays, Golden
    from coformer_passes.pipeline import Pass

Verify = Literal["each", "end"]

TOLERANCE = 5e-5
"""Greatest |after − before| that a pass may cause, as a part of the greatest magnitude of the output."""

ALL_PASSES = 2
"""How many times TOLERANCE all passes together may cause."""

EACH_UP_TO_WEIGHTS = 2_000_000
"""Models of more weights are compared once, at the end."""

CASES_AT_THE_END = 2
"""How many of the golden cases are compared where it is done once, at the end."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PassRecord:
    """What one pass did: `difference` is relative to the output's magnitude, None where it was not measured."""

    name: str
    modified: bool
    milliseconds: float
    difference: float | None


def legalise(
    model: ir.Model,
    target: Target,
    golden: Golden,
    *,
    verify: Verify | None = None,
    tolerance: float = TOLERANCE,
    passes: tuple[Pass, ...] | None = None,
    record: Callable[[PassRecord], None] | None = None,
) -> ir.Model:
    """The graph in the form that the target takes, proved equal to `model` on the golden inputs.

    Args:
        model: opset up to 24, static shapes; left as it is. Weights that no pass changes are shared, not copied.
        target: decides the pipeline, by its engine, and what each pass does.
        golden: input name → array `(cases, …)`; each case runs as a batch of one, cast to the graph's input dtype.
            Or whole feeds of the graph, one a case.
        verify: compare numerics after "each" pass, on all cases, or at the "end", on CASES_AT_THE_END of them;
            None takes "each" up to EACH_UP_TO_WEIGHTS weights, and logs which it took.
        tolerance: see TOLERANCE; for each comparison of two neighbouring graphs, and ALL_PASSES times that for the
            last graph against the first. A pass that gives up precision has its own, in TOLERANCES, which is added.
        passes: instead of the pipeline of the target's engine.
        record: called after each pass with what it did.

    Raises:
        CheckFailed: a pass broke its contract, the graph's structure or its numerics; names the pass.
        CoformerError: a pass refuses the graph, or the golden inputs do not fit it.
    """
    chosen = passes if passes is not None else PIPELINES[target.engine]
    mode = verify if verify is not None else _mode_by_size(model)
    if mode == "end":
        golden = first_cases(golden, CASES_AT_THE_END)
    first = _outputs(model, golden, "graph before the passes")
    result, before, given_up = model.clone(), first, 0.0
    for each in chosen:
        started = time.perf_counter()
        modified = _run_pass(each, result, target)
        milliseconds = (time.perf_counter() - started) * 1e3
        difference = None
        if modified:
            given_up += TOLERANCES.get(each, 0.0)
        if modified and mode == "each":
            after = _outputs(result, golden, each.__name__)
            difference = _compare(before, after, each.__name__, TOLERANCES.get(each, tolerance))
            before = after
        elif modified:
            check_structure(proto_without_weights(result)[0], each.__name__)
        if record is not None:
            record(PassRecord(each.__name__, modified, milliseconds, difference))
    last = before if mode == "each" else _outputs(result, golden, "graph after the passes")
    try:
        _compare(first, last, "all passes together", ALL_PASSES * tolerance + given_up)
    except CheckFailed:
        if mode == "end":
            legalise(model, target, golden, verify="each", tolerance=tolerance, passes=passes)
        raise
    return result


def run_passes(model: ir.Model, target: Target) -> ir.Model:
    """The graph after the target's pipeline, each pass held to what it says of itself, nothing compared.

    For graphs that are measured and whose numbers mean nothing; what is shipped goes through `legalise`.

    Raises:
        CheckFailed: a pass said that it changed the graph and did not, or the other way round.
        CoformerError: a pass refuses the graph.
    """
    result = model.clone()
    for each in PIPELINES[target.engine]:
        _run_pass(each, result, target)
    return result


def _outputs(model: ir.Model, golden: Golden, where: str) -> list[dict[str, NDArray[np.generic]]]:
    """The outputs of a graph that onnx.checker accepts, of every golden case, rounded as its types say."""
    proto, weights = proto_without_weights(model)
    check_structure(proto, where)
    if computes_in_halves(model):
        proto, weights = proto_without_weights(with_rounding(model))
    return outputs_of(proto, weights, cases_of(golden, model), where)


def _compare(before: Sequence[Arrays], after: Sequence[Arrays], where: str, tolerance: float) -> float:
    """The difference, where it is within the tolerance."""
    difference, output = relative_difference(before, after)
    if difference <= tolerance:
        return difference
    raise CheckFailed(
        f"output '{output}' differs by {difference:.2g} of its magnitude, {tolerance:.0e} is allowed",
        where,
        "report it as a bug of this pass, with the graph",
    )


def _mode_by_size(model: ir.Model) -> Verify:
    weights = sum(
        value.const_value.size for value in model.graph.initializers.values() if value.const_value is not None
    )
    mode: Verify = "each" if weights <= EACH_UP_TO_WEIGHTS else "end"
    _log.info("%d weights: numerics are compared at %s", weights, "each pass" if mode == "each" else "the end")
    return mode


def _run_pass(each: Pass, model: ir.Model, target: Target) -> bool:
    """Run the pass and hold its return value against what it did."""
    before = _fingerprint(model)
    modified = each(model, target)
    changed = _fingerprint(model) != before
    if changed != modified:
        said = "says that it changed the graph and did not" if modified else "changed the graph and says it did not"
        raise CheckFailed(said, each.__name__, "report it as a bug of this pass")
    return modified


def _fingerprint(model: ir.Model) -> Hashable:
    """Everything that a graph says, its big tensors by identity; holding it keeps these identities from reuse."""
    graph = model.graph
    return (
        model.ir_version,
        tuple(sorted(graph.opset_imports.items())),
        tuple(_declaration(value) for value in graph.inputs),
        tuple(_declaration(value) for value in graph.outputs),
        frozenset((_declaration(value), _Same(value.const_value)) for value in graph.initializers.values()),
        tuple(_node_fingerprint(node) for node in graph.all_nodes()),
    )


def _declaration(value: ir.Value) -> Hashable:
    return value.name, str(value.type), None if value.shape is None else str(value.shape)


def _node_fingerprint(node: ir.Node) -> Hashable:
    return (
        node.domain,
        node.op_type,
        node.name,
        tuple(None if value is None else value.name for value in node.inputs),
        tuple(_declaration(value) for value in node.outputs),
        tuple(sorted((name, repr(attribute.value)) for name, attribute in node.attributes.items())),
        tuple(sorted(node.metadata_props.items())),
    )


class _Same:
    """Equal to another only where both hold the very same object."""

    def __init__(self, thing: object) -> None:
        self.thing = thing

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.thing is self.thing

    def __hash__(self) -> int:
        return id(self.thing)
