"""A predictor on disk: one safetensors file with what it was measured on, how well it did, and its numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from coformer_compiler.model.spec import AttentionSpec, MlpSpec, TransformerSpec
from coformer_compiler.model.spec_json import spec_from_json
from coformer_compiler.profiling.mlp import mlp_latency_ms
from coformer_compiler.profiling.table import Floats, ShapeTable
from coformer_compiler.profiling.terms import PAPER, TERMS, kernel_terms, paper_features
from coformer_runtime.errors import CoformerError
from coformer_targets import Target

FORMAT = "coformer-predictor/1"
KEY = "coformer"

Kind = Literal["roofline", "mlp"]


@dataclass(frozen=True)
class Origin:
    """What a predictor was measured on; see `coformer_runtime.profile_points.Provenance`."""

    target: str
    engine: str
    engine_version: str
    precision: str
    board: str
    threads: int
    clock: str
    power_mode: str


@dataclass(frozen=True)
class HeldOut:
    """Relative errors on points that the fit has not seen."""

    median: float
    p95: float


@dataclass(frozen=True)
class Calibration:
    """A predictor carried over to another machine of the same target.

    Attributes:
        board: that machine.
        points: how many members were measured there.
        factor: its latency over the predicted one, the median over these points.
        median, p95: relative errors on them, with the factor.
    """

    board: str
    points: int
    factor: float
    median: float
    p95: float


@dataclass(frozen=True)
class Predictor:
    """Shapes to milliseconds. Hashable, since devices that hold one are keys of caches.

    Attributes:
        kind: which of the two models is in use.
        origin: what it was measured on.
        models: name of each measured teacher → its shapes.
        points: how many points were fitted or held out.
        unstable: how many were left out since they were not stable.
        spread: median interquartile range of the points' runs, as a part of their medians.
        errors: of both kinds, on the same held-out points.
        tensors: the numbers of the one in use.
        calibration: none for the machine that it was measured on.
        sha256: of its file, "" before it has one.
    """

    kind: Kind
    origin: Origin
    models: Mapping[str, TransformerSpec] = field(hash=False)
    points: int
    unstable: int
    spread: float
    errors: Mapping[str, HeldOut] = field(hash=False)
    tensors: Mapping[str, npt.NDArray[np.generic]] = field(compare=False, repr=False)
    calibration: Calibration | None = None
    sha256: str = ""

    @property
    def board(self) -> str:
        """The machine whose latencies it predicts."""
        return self.origin.board if self.calibration is None else self.calibration.board

    def latency_ms(self, teacher: TransformerSpec, shapes: ShapeTable) -> Floats:
        """`(rows,)` of members of `teacher`."""
        if self.kind == "mlp":
            found = mlp_latency_ms({k: v.astype(np.float32) for k, v in self.tensors.items()}, paper_features(shapes))
        else:
            found = kernel_terms(teacher, shapes) @ self.tensors["times_ms"].astype(np.float64)
        return found if self.calibration is None else found * self.calibration.factor

    def covers(self, teacher: TransformerSpec) -> bool:
        """Whether members of this teacher are among the shapes that were measured."""
        return any(_within(teacher, measured) for measured in self.models.values())


def _within(teacher: TransformerSpec, measured: TransformerSpec) -> bool:
    def kernels(spec: TransformerSpec) -> tuple[object, ...]:
        stem, pool = replace(spec.stem, embed=0, norm=None, mix=None), spec.pool.kind
        branches = {
            (b.branch.head_dim, b.branch.query_norm is None, b.branch.score_bias is None, b.branch.window)
            if isinstance(b.branch, AttentionSpec)
            else (b.branch.activation,)
            if isinstance(b.branch, MlpSpec)
            else (b.branch.head_dim, b.branch.tokens)
            for b in spec.residuals
        }
        stages = tuple(width / spec.embeds[0] for width in spec.embeds)
        return stem, spec.stem.norm is None, spec.post_norm, branches, stages, pool

    def sizes(spec: TransformerSpec) -> tuple[int, ...]:
        heads = max(b.branch.heads for b in spec.residuals if isinstance(b.branch, AttentionSpec))
        neurons = max(b.branch.neurons for b in spec.residuals if isinstance(b.branch, MlpSpec))
        return len(spec.layers), spec.embed, heads, neurons

    fits = all(ours <= theirs for ours, theirs in zip(sizes(teacher), sizes(measured), strict=True))
    return fits and kernels(teacher) == kernels(measured)


def mismatch(predictor: Predictor, target: Target) -> str | None:
    """What a predictor was measured on other than this target, or None where it fits.

    Versions count by major and minor, as for plans.
    """
    origin = predictor.origin
    for what, measured, wanted in (
        ("target", origin.target, target.name),
        ("engine", origin.engine, target.engine),
        ("precision", origin.precision, target.precision),
    ):
        if measured != wanted:
            return f"it was measured for the {what} '{measured}', the device's is '{wanted}'"
    if _minor(origin.engine_version) != _minor(target.engine_version):
        return (
            f"it was measured with {origin.engine} {origin.engine_version}, target '{target.name}' has "
            f"{target.engine_version}"
        )
    return None


def _minor(version: str) -> list[str]:
    return version.split(".")[:2]


def save_predictor(path: Path, predictor: Predictor) -> None:
    """Write the file; it appears whole, and the same predictor gives the same bytes."""
    from safetensors.numpy import save

    header = {
        "format": FORMAT,
        "kind": predictor.kind,
        "features": list(TERMS if predictor.kind == "roofline" else PAPER),
        "origin": asdict(predictor.origin),
        "models": {name: spec.to_json() for name, spec in predictor.models.items()},
        "points": predictor.points,
        "unstable": predictor.unstable,
        "spread": predictor.spread,
        "errors": {kind: asdict(errors) for kind, errors in predictor.errors.items()},
        "calibration": None if predictor.calibration is None else asdict(predictor.calibration),
    }
    tensors = {name: np.ascontiguousarray(array) for name, array in sorted(predictor.tensors.items())}
    fresh = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_bytes(save(tensors, {KEY: json.dumps(header, sort_keys=True)}))
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise CoformerError(
            f"cannot be written ({error.strerror})", f"predictor {path}", "name another with -o"
        ) from error
    fresh.replace(path)


def load_predictor(path: Path) -> Predictor:
    """The inverse of `save_predictor`.

    Raises:
        CoformerError: it cannot be read, is no predictor, or one of another version of the toolchain.
    """
    from safetensors import SafetensorError, safe_open

    where, mend = f"predictor {path}", "make one with `coformerc profile fit`"
    try:
        with safe_open(path, framework="np") as file:
            header = json.loads((file.metadata() or {})[KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iterator)
        return replace(_predictor(header, tensors), sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    except OSError as error:
        raise CoformerError(f"cannot be read ({error.strerror or error})", where, mend) from error
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CoformerError(f"is no predictor ({type(error).__name__}: {error})", where, mend) from error


def _predictor(header: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[np.generic]]) -> Predictor:
    if header["format"] != FORMAT:
        raise ValueError(f"its format is '{header['format']}', this version reads '{FORMAT}'")
    kind: Kind = "roofline" if header["kind"] == "roofline" else "mlp"
    if tuple(header["features"]) != (TERMS if kind == "roofline" else PAPER):
        raise ValueError("its features are those of another version; fit it again from its CSV")
    calibration = header["calibration"]
    return Predictor(
        kind,
        Origin(**header["origin"]),
        {name: spec_from_json(spec) for name, spec in header["models"].items()},
        int(header["points"]),
        int(header["unstable"]),
        float(header["spread"]),
        {name: HeldOut(**errors) for name, errors in header["errors"].items()},
        tensors,
        None if calibration is None else Calibration(**calibration),
    )
