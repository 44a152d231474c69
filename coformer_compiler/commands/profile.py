"""`coformerc profile`: packs for boards to measure, and predictors from what they measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from coformer_compiler.evaluator.compute import SHIPPED
from coformer_compiler.frontends import ModelSource, import_model
from coformer_compiler.profiling.fit import calibrate, fit_files
from coformer_compiler.profiling.packs import write_pack
from coformer_compiler.profiling.predictor import Predictor, load_predictor, save_predictor
from coformer_compiler.progress import Progress
from coformer_targets import Target


def write_profile_pack(
    model: str,
    options: Sequence[tuple[str, bool | int | float | str]],
    target: Target,
    count: int,
    seed: int,
    out: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Write a pack of random members of a model; JSON values. Weights play no part, so none are loaded."""
    teacher = import_model(ModelSource(model, "random", None, tuple(sorted(options)))).spec
    name = model + "".join(f" {key}={value}" for key, value in sorted(options))
    with progress.stage(f"profile pack for {target.name}", total=count, unit="graph") as stage:
        written = write_pack(out, name, teacher, target, count, seed, lambda: stage.advance())
    return {"pack": str(out), "target": target.name, "points": written.points, "bytes": written.size_bytes}


def fit_predictor(files: Sequence[Path], out: Path, known: str | None) -> dict[str, Any]:
    """Fit a predictor, or carry over the one that `known` names, a file or a target with a shipped one; JSON values."""
    if known is None:
        predictor = fit_files(files)
    else:
        shipped = SHIPPED / f"{known}.safetensors"
        predictor = calibrate(files, load_predictor(shipped if shipped.exists() else Path(known)))
    save_predictor(out, predictor)
    return {"predictor": str(out), **predictor_json(predictor)}


def predictor_json(predictor: Predictor) -> dict[str, Any]:
    """Everything about a predictor but its numbers."""
    return {
        "kind": predictor.kind,
        "board": predictor.board,
        "origin": asdict(predictor.origin),
        "models": list(predictor.models),
        "points": predictor.points,
        "unstable": predictor.unstable,
        "spread": predictor.spread,
        "held_out_errors": {kind: asdict(errors) for kind, errors in predictor.errors.items()},
        "calibration": None if predictor.calibration is None else asdict(predictor.calibration),
    }
