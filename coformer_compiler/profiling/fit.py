"""Measured points to a predictor: both models are fitted, the one that does better on points of neither is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from coformer_compiler.decomposer.shapes import MemberShape
from coformer_compiler.model.spec import TransformerSpec
from coformer_compiler.model.spec_json import spec_from_json
from coformer_compiler.profiling.mlp import fit_mlp
from coformer_compiler.profiling.predictor import Calibration, HeldOut, Kind, Origin, Predictor
from coformer_compiler.profiling.roofline import fit_times
from coformer_compiler.profiling.table import Floats, Integers, ShapeTable, table_of_shapes
from coformer_compiler.profiling.terms import kernel_terms, paper_features
from coformer_runtime.errors import CoformerError
from coformer_runtime.profile_points import (
    MeasuredPoint,
    Points,
    Provenance,
    points_at_one_speed,
    read_points,
    stable_points,
)

PART = 0.2
"""Of the points that choose between the models, and of those that tell their errors."""
FEWEST, FEWEST_TO_CALIBRATE = 30, 5
"""Stable points below which nothing is fitted, since held-out errors of fewer than six points say nothing; and below
which an earlier predictor is not carried over."""


@dataclass(frozen=True)
class Measured:
    """Stable points of one teacher: `shapes` and `latency_ms` `(rows,)`; `spread` of their runs, likewise."""

    name: str
    teacher: TransformerSpec
    shapes: ShapeTable
    latency_ms: Floats
    spread: Floats


def fit_files(paths: Sequence[Path], seed: int = 0) -> Predictor:
    """The predictor of one or more CSV files of one board; each may be of another teacher.

    Raises:
        CoformerError: a file is damaged, they are of unlike boards or engines, or too few points are stable.
    """
    files = [(path, read_points(str(path))) for path in paths]
    _refuse_unlike(files)
    measured = [_measured(path, file) for path, file in files]
    count = sum(len(each.latency_ms) for each in measured)
    unstable = sum(len(file.points) for _, file in files) - count
    if count < FEWEST:
        raise CoformerError(
            f"{count} points are stable, {unstable} are not; at least {FEWEST} stable ones are needed",
            ", ".join(str(path) for path in paths),
            "measure a larger pack with nothing else running; a few points carry an earlier predictor over: --from",
        )
    return fit(measured, _origin(files[0][1].provenance), unstable, seed)


def calibrate(paths: Sequence[Path], known: Predictor) -> Predictor:
    """An earlier predictor of the same target carried over to the machine that some points were measured on.

    Raises:
        CoformerError: the points are of another target or engine, or too few are stable.
    """
    files = [(path, read_points(str(path))) for path in paths]
    _refuse_unlike(files)
    where, here = ", ".join(str(path) for path in paths), _origin(files[0][1].provenance)
    for key in ("target", "engine", "engine_version", "precision", "threads"):
        if getattr(here, key) != getattr(known.origin, key):
            raise CoformerError(
                f"{key} is '{getattr(here, key)}', the predictor was measured with '{getattr(known.origin, key)}'",
                where,
                "fit a predictor of its own to a larger pack, without --from",
            )
    measured = [_measured(path, file) for path, file in files]
    ratios = np.concatenate([m.latency_ms / known.latency_ms(m.teacher, m.shapes) for m in measured])
    if len(ratios) < FEWEST_TO_CALIBRATE:
        raise CoformerError(
            f"{len(ratios)} points are stable, at least {FEWEST_TO_CALIBRATE} are needed",
            where,
            "measure again, with nothing else running",
        )
    factor = float(np.median(ratios))
    errors = np.abs(factor / ratios - 1)
    before = 1.0 if known.calibration is None else known.calibration.factor
    carried = Calibration(
        here.board, len(ratios), before * factor, float(np.median(errors)), float(np.percentile(errors, 95))
    )
    return replace(known, calibration=carried, sha256="")


def fit(measured: Sequence[Measured], origin: Origin, unstable: int, seed: int = 0) -> Predictor:
    """Fit both models, choose one, and judge both on points that neither the fit nor the choice has seen.

    Three fifths of the points are fitted for the choice, which the fourth makes. Then both are fitted on these four
    fifths, and the last one tells their errors. What is returned is the model that was judged, not one fitted again on
    all points.
    """
    latency_ms = np.concatenate([each.latency_ms for each in measured])
    terms = np.concatenate([kernel_terms(each.teacher, each.shapes) for each in measured])
    features = np.concatenate([paper_features(each.shapes) for each in measured])
    fitted, choosing, held_out = split(len(latency_ms), seed)
    base = Predictor(
        "roofline",
        origin,
        {each.name: each.teacher for each in measured},
        len(latency_ms),
        unstable,
        float(np.median(np.concatenate([each.spread for each in measured]))),
        {},
        {},
    )

    def both(rows: Integers) -> dict[Kind, Predictor]:
        times = fit_times(terms[rows], latency_ms[rows])
        weights = fit_mlp(features[rows], latency_ms[rows], seed)
        return {
            "roofline": replace(base, tensors={"times_ms": times}),
            "mlp": replace(base, kind="mlp", tensors=dict(weights)),
        }

    tried = {kind: _errors(each, measured, choosing) for kind, each in both(fitted).items()}
    chosen = min(tried, key=lambda kind: tried[kind].median)
    candidates = both(np.sort(np.concatenate([fitted, choosing])))
    errors: dict[str, HeldOut] = {kind: _errors(each, measured, held_out) for kind, each in candidates.items()}
    return replace(candidates[chosen], errors=errors)


def split(count: int, seed: int) -> tuple[Integers, Integers, Integers]:
    """Rows to fit, rows to choose by, and rows to hold out."""
    order = np.random.default_rng(seed).permutation(count)
    part = max(1, round(count * PART))
    return np.sort(order[2 * part :]), np.sort(order[part : 2 * part]), np.sort(order[:part])


def relative_errors(predictor: Predictor, measured: Sequence[Measured]) -> Floats:
    """|predicted / measured − 1| of every point, `(rows,)`."""
    return np.concatenate(
        [np.abs(predictor.latency_ms(each.teacher, each.shapes) / each.latency_ms - 1) for each in measured]
    )


def _errors(predictor: Predictor, measured: Sequence[Measured], rows: Integers) -> HeldOut:
    errors = relative_errors(predictor, measured)[rows]
    return HeldOut(float(np.median(errors)), float(np.percentile(errors, 95)))


def _refuse_unlike(files: Sequence[tuple[Path, Points]]) -> None:
    first, names = files[0][1].provenance, set()
    for path, file in files:
        here = file.provenance
        if _origin(here) != _origin(first):
            raise CoformerError(
                f"it was measured on {_words(here)}, '{files[0][0].name}' on {_words(first)}",
                str(path),
                "fit files of one board and engine together",
            )
        if here.model in names:
            raise CoformerError(f"it is a second file of the model '{here.model}'", str(path), "fit one file per model")
        names.add(here.model)


def _words(told: Provenance) -> str:
    return (
        f"'{told.board}' with {told.engine} {told.engine_version}, {told.precision}, {told.threads} threads, "
        f"{told.clock} clock, power mode '{told.power_mode}', for target '{told.target}'"
    )


def _origin(told: Provenance) -> Origin:
    return Origin(
        told.target,
        told.engine,
        told.engine_version,
        told.precision,
        told.board,
        told.threads,
        told.clock,
        told.power_mode,
    )


def _measured(path: Path, file: Points) -> Measured:
    try:
        teacher = spec_from_json(file.provenance.spec)
    except (KeyError, TypeError, ValueError) as error:
        raise CoformerError(
            f"its teacher's shapes cannot be read ({type(error).__name__}: {error})", str(path), "measure again"
        ) from error
    stable = points_at_one_speed(stable_points(file.points))
    layers = {layer for point in stable for layer in point.shape.layers}
    if not layers <= set(teacher.layers):
        raise CoformerError(
            f"a point has layer {max(layers)}, the teacher has {len(teacher.layers)}", str(path), "measure again"
        )
    shapes = table_of_shapes(
        [_shape(point) for point in stable], len(teacher.layers), shortcuts=[point.shape.shortcuts for point in stable]
    )
    return Measured(
        file.provenance.model,
        teacher,
        shapes,
        np.array([point.median_ms for point in stable]),
        np.array([point.spread for point in stable]),
    )


def _shape(point: MeasuredPoint) -> MemberShape:
    shape = point.shape
    heads, neurons = (dict(zip(shape.layers, counts, strict=True)) for counts in (shape.heads, shape.neurons))
    return MemberShape(shape.embed, heads, neurons)
