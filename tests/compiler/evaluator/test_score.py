"""What a score is: Ψ = loss + δ·T in its unit, with eq. (3)'s bytes and the energy, each against its formula."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from coformer_compiler.data.dataset import Split
from coformer_compiler.decomposer.dealing import members_from_shapes
from coformer_compiler.decomposer.policy import teacher_shape
from coformer_compiler.decomposer.shapes import MaybeShape, MemberShape, feature_widths, full_shape
from coformer_compiler.device import Device
from coformer_compiler.evaluator.compute import SHIPPED
from coformer_compiler.evaluator.energy import estimated_energy_mj
from coformer_compiler.evaluator.latency import Latency, LatencyModel, Network, head_flops
from coformer_compiler.evaluator.score import Evaluator, Loss, unit_ms
from coformer_compiler.evaluator.wire import GRPC_PREFIX, HTTP2_FRAME
from coformer_compiler.model.spec import TransformerSpec
from coformer_compiler.profiling.predictor import load_predictor
from coformer_compiler.profiling.table import ShapeTable, table_of_shapes
from coformer_compiler.profiling.terms import flops_of
from coformer_compiler.transplant.readout import fit_readouts
from coformer_compiler.transplant.statistics import statistics_from_batches
from coformer_compiler.transplant.transplant import transplant_lesson
from coformer_runtime import wire
from coformer_targets import load_target
from tests.compiler.tiny import random_model, tiny_spec

SPEC = tiny_spec()
DELTA = 0.3
SHAPES: tuple[MaybeShape, ...] = (
    MemberShape(6, {0: 2, 1: 1}, {0: 8, 1: 12}),
    MemberShape(4, {0: 1, 1: 1}, {0: 8, 1: 8}),
)


def cluster() -> tuple[Device, ...]:
    """A central device of known FLOPS, and a slower one; no predictor ships for their targets."""
    board, jetson = load_target("raspberry-pi-5"), load_target("jetson-nano")
    return Device("desk", board, 10.0, 500.0, None, True), Device("hall", jetson, 4.0, 500.0)


@pytest.fixture(scope="module")
def samples() -> tuple[Split, Split]:
    """Calibration and validation."""
    random = np.random.default_rng(0)
    calibration, validation = (
        Split(
            random.integers(0, 256, (count, *SPEC.stem.input.shape), dtype=np.uint8),
            random.integers(SPEC.classes, size=count),
        )
        for count in (48, 24)
    )
    return calibration, validation


def evaluator(samples: tuple[Split, Split], loss: Loss = "aggregated", network: Network | None = None) -> Evaluator:
    teacher = random_model(SPEC)
    inputs, labels = torch.from_numpy(samples[0].inputs), torch.from_numpy(samples[0].labels)
    return Evaluator(
        teacher,
        statistics_from_batches(teacher, [(inputs, labels)]),
        cluster(),
        *samples,
        basis="per-norm",
        network=network or Network(),
        delta=DELTA,
        loss=loss,
    )


@pytest.mark.parametrize("loss", ["aggregated", "members"])
def test_the_objective_is_the_loss_and_the_latency_in_its_unit(samples: tuple[Split, Split], loss: Loss) -> None:
    made = evaluator(samples, loss)
    found = made.score(SHAPES)
    counted = found.loss if loss == "aggregated" else found.members_loss
    assert found.loss != found.members_loss
    assert made.unit_ms == unit_ms(SPEC, cluster())
    assert found.objective == pytest.approx(counted + DELTA * found.latency.total_ms / made.unit_ms, rel=1e-12)


@torch.no_grad()
def test_losses_are_those_of_the_system_and_of_its_members_alone(samples: tuple[Split, Split]) -> None:
    made = evaluator(samples)
    found = made.score(SHAPES)
    policies = members_from_shapes(["desk", "hall"], [s for s in SHAPES if s], made.scores, None)
    system = transplant_lesson(made.lesson, policies, made.inputs, batch=made.batch)
    lessons = [(made.inputs, made.teacher.features(made.inputs))]
    images, labels = torch.from_numpy(samples[1].inputs), torch.from_numpy(samples[1].labels)

    def cross_entropy(logits: torch.Tensor) -> float:
        return float(torch.nn.functional.cross_entropy(logits, labels))

    aggregator = fit_readouts(system.members, made.teacher.head, lessons, system.priors)
    together = aggregator({n: member.features(images) for n, member in enumerate(system.members)})
    assert found.loss == pytest.approx(cross_entropy(together), rel=1e-4)
    alone = [cross_entropy(member(images)) for member in system.members]
    assert found.members_loss == pytest.approx(sum(alone) / 2, rel=1e-4)


def test_a_device_that_is_left_out_costs_nothing(samples: tuple[Split, Split]) -> None:
    found = evaluator(samples).score((SHAPES[0], None))
    assert found.latency.arrival_ms == found.latency.compute_ms
    assert found.loss == found.members_loss
    assert found.energy_mj == estimated_energy_mj(cluster()[:1], found.latency)


def test_energy_is_power_times_computing_and_the_aggregation_counts_centrally() -> None:
    slow, central = (replace(each, central=not each.central) for each in cluster())
    latency = Latency((2.0, 3.0), (2.0, 30.0), 0.5, 30.5)
    assert slow.target.power_w != central.target.power_w
    expected = slow.target.power_w * 2.0 + central.target.power_w * (3.0 + 0.5)  # W · ms = mJ; waiting counts nothing
    assert estimated_energy_mj([slow, central], latency) == pytest.approx(expected)


def test_transfers_take_the_bytes_that_the_wire_carries() -> None:
    """t2 against frames of the runtime, in gRPC's and HTTP/2's own framing."""
    network = Network(mbps=8.0, rtt_ms=2.0)  # a byte takes a microsecond
    found = LatencyModel(SPEC, cluster(), network).of_shapes(SHAPES, shortcuts=True)
    hall = SHAPES[1]
    assert hall is not None
    width, pixels = feature_widths(SPEC, [hall])[0], SPEC.stem.input.shape

    def on_the_wire(kind: int, array: np.ndarray) -> int:
        frame = wire.Frame(kind, 1, "0" * 64, array.tobytes(), str(array.dtype), array.shape)
        return len(wire.encode_frame(frame)) + GRPC_PREFIX + HTTP2_FRAME

    sent = on_the_wire(wire.REQUEST, np.zeros((1, *pixels), SPEC.stem.input.dtype))
    answered = on_the_wire(wire.FEATURES, np.zeros((1, width), np.float32))
    expected = sent * 1e-3 + 1.0 + found.compute_ms[1] + answered * 1e-3 + 1.0
    assert found.arrival_ms[1] == pytest.approx(expected, rel=1e-12)
    assert found.arrival_ms[0] == found.compute_ms[0]
    assert found.total_ms == pytest.approx(max(found.arrival_ms) + found.aggregate_ms, rel=1e-12)


def test_the_unit_is_the_whole_teacher_on_its_fastest_device() -> None:
    flops = flops_of(SPEC, whole(SPEC))[0] + head_flops(SPEC.head, np.array([SPEC.features]))[0]
    assert unit_ms(SPEC, cluster()) == pytest.approx(flops / (10.0 * 1e6), rel=1e-12)
    assert unit_ms(SPEC, cluster()[1:]) == pytest.approx(flops / (4.0 * 1e6), rel=1e-12)


def test_the_unit_of_a_measured_device_is_its_own_time_of_the_whole_teacher() -> None:
    predictor = load_predictor(SHIPPED / "cpu.safetensors")
    head = head_flops(SPEC.head, np.array([SPEC.features]))[0]
    for gflops in (1e-3, 1e6):  # what the configuration says of its FLOPS decides of the head alone
        device = Device("desk", load_target("cpu"), gflops, 500.0, None, True, predictor)
        expected = predictor.latency_ms(SPEC, whole(SPEC))[0] + head / (gflops * 1e6)
        assert unit_ms(SPEC, [device]) == pytest.approx(expected, rel=1e-12)


def whole(spec: TransformerSpec) -> ShapeTable:
    """The teacher, as a member that keeps everything."""
    return table_of_shapes([full_shape(teacher_shape(spec))], len(spec.layers), shortcuts=False)
