"""t1 of eq. (3): how long a device computes its member, and what that figure rests on.

From best to worst: a predictor of the device itself, named in the configuration; the predictor that ships for its
target, which was measured on another machine and so gives only how latency goes with shape, scaled to the device's
FLOPS; FLOPS alone. Everything but the first is an estimate, and says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coformer_compiler.decomposer.policy import teacher_shape
from coformer_compiler.decomposer.shapes import full_shape
from coformer_compiler.device import Device
from coformer_compiler.model.spec import TransformerSpec
from coformer_compiler.profiling.predictor import Predictor, load_predictor, mismatch
from coformer_compiler.profiling.table import Floats, ShapeTable, table_of_shapes
from coformer_compiler.profiling.terms import flops_of
from coformer_runtime.errors import CoformerError

SHIPPED = Path(__file__).parents[1] / "profiling" / "shipped"


@dataclass(frozen=True)
class ComputeModel:
    """Latency of one device's members.

    Attributes:
        device: whose.
        predictor: gives milliseconds, or none: work divided by `device.gflops`.
        factor: what the predictor's milliseconds are multiplied with.
        estimated: whether it rests on anything but measurements of such a device and such members.
        basis: what it rests on, for people.
    """

    device: Device
    predictor: Predictor | None
    factor: float
    estimated: bool
    basis: str

    def latency_ms(self, teacher: TransformerSpec, shapes: ShapeTable) -> Floats:
        """`(rows,)` of members of `teacher`."""
        if self.predictor is None:
            return flops_of(teacher, shapes) / (self.device.gflops * 1e6)
        return self.predictor.latency_ms(teacher, shapes) * self.factor


def compute_model(device: Device, teacher: TransformerSpec, shipped: Path = SHIPPED) -> ComputeModel:
    """The best model that there is for a device and members of this teacher.

    Raises:
        CoformerError: the configured predictor is the paper's, and was measured on members of other teachers.
    """
    flops = f"{device.gflops:g} GFLOPS"
    if device.predictor is not None:
        return _measured(device, device.predictor, teacher)
    path = shipped / f"{device.target.name}.safetensors"
    if not path.exists():
        return ComputeModel(device, None, 1.0, True, f"estimated from {flops}")
    predictor = load_predictor(path)
    other = mismatch(predictor, device.target)
    if other is not None:
        return ComputeModel(
            device, None, 1.0, True, f"estimated from {flops}; the predictor that ships does not fit: {other}"
        )
    whole = table_of_shapes([full_shape(teacher_shape(teacher))], len(teacher.layers), shortcuts=False)
    factor = float((flops_of(teacher, whole) / (device.gflops * 1e6) / predictor.latency_ms(teacher, whole))[0])
    return ComputeModel(
        device, predictor, factor, True, f"estimated from {flops} and measurements on {predictor.board}"
    )


def _measured(device: Device, predictor: Predictor, teacher: TransformerSpec) -> ComputeModel:
    if predictor.covers(teacher):
        return ComputeModel(device, predictor, 1.0, False, f"predicted from measurements on {predictor.board}")
    models = ", ".join(predictor.models)
    if predictor.kind == "mlp":
        raise CoformerError(
            f"its predictor was measured on members of {models}, and the paper's form knows no other teachers",
            f"device '{device.name}'",
            "measure a pack of this model: `coformerc profile pack`, `coformer-node profile`, `coformerc profile fit`",
        )
    basis = f"estimated from measurements on {predictor.board} of members of {models}, not of this model"
    return ComputeModel(device, predictor, 1.0, True, basis)
