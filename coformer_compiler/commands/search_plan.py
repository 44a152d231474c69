"""What a search would look at: how much of its space fits, and what each device's members would be."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from coformer_compiler.config import BuildConfig
from coformer_compiler.decomposer.policy import teacher_shape
from coformer_compiler.decomposer.search.encoding import Encoding
from coformer_compiler.decomposer.search.space import SAMPLED, Space
from coformer_compiler.decomposer.strategies import STRATEGIES
from coformer_compiler.evaluator.many import candidates_of, many_aggregator_mb
from coformer_compiler.evaluator.memory import held_mb
from coformer_compiler.model.spec import TransformerSpec
from coformer_compiler.stages.decompose import network_of, policy_options


def search_plan(teacher: TransformerSpec, config: BuildConfig) -> dict[str, Any]:
    """The search's own preflight, and of the random policies that fit after shrinking the range of every figure.

    Which layers matter is not known before calibration, and makes no difference to what layers of one size cost.

    Raises:
        CoformerError: if none fits, with what to relax and by how much.
    """
    shape = teacher_shape(teacher)
    encoding = Encoding(shape, config.devices, (1.0,) * shape.layers, config.policy.overlap, config.search.drop)
    space = Space(encoding, teacher, network_of(config), shortcuts=policy_options(config.policy).shortcuts)
    found = space.preflight(config.seed)
    points = np.random.default_rng([config.seed, 1_000_003]).random((SAMPLED, encoding.dimensions))
    shapes = [each for each in space.many_shapes(points) if isinstance(each, tuple)]
    times = space.latencies(shapes)
    candidates = candidates_of(shapes, shape.layers)
    costs = space.model.costs(candidates)
    aggregator = many_aggregator_mb(teacher, candidates)
    devices = []
    for n, device in enumerate(config.devices):
        kept = candidates.embed[:, n] > 0
        numbers = (costs.params, costs.peak_elements, costs.tables, costs.again, costs.cached)
        memory = held_mb(
            *(each[:, n] for each in numbers), target=device.target, precision=device.target.precision
        ) + aggregator * (device.central or device.standby)
        devices.append(
            {
                "device": device.name,
                "target": device.target.name,
                "central": device.central,
                "left_out_share": float(1 - kept.mean()),
                "layers": _range((candidates.heads[:, n] > 0).sum(1), kept),
                "embed": _range(candidates.embed[:, n], kept),
                "flops": _range(costs.flops[:, n], kept),
                "memory_mb": _range(memory, kept),
                "arrival_ms": _range(times.arrival_ms[n], kept),
                "max_gflop": device.max_gflop,
                "memory_limit_mb": device.memory_mb,
                "deadline_ms": device.deadline_ms,
            }
        )
    return {
        "iterations": config.search.iterations,
        "initial": min(config.search.initial, config.search.iterations),
        "minutes": config.search.minutes,
        "starts": list(STRATEGIES),
        "sampled": found.sampled,
        "feasible_share": found.fits,
        "feasible_share_shrunk": found.fits_shrunk,
        "binding": found.binding,
        "estimated": space.latency.estimated,
        "latency_ms": _range(times.total_ms, np.ones(len(shapes), bool)),
        "devices": devices,
    }


def _range(values: npt.NDArray[Any], kept: npt.NDArray[np.bool_]) -> list[Any] | None:
    """The least and the most of what is kept; None where nothing is."""
    return [values[kept].min().item(), values[kept].max().item()] if kept.any() else None
