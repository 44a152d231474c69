"""Many costs at once against one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from coformer_compiler.decomposer.policy import teacher_shape
from coformer_compiler.decomposer.search.encoding import Encoding
from coformer_compiler.decomposer.search.space import Space
from coformer_compiler.decomposer.shapes import MaybeShape, feature_widths, kept_of, member_cost
from coformer_compiler.device import Device
from coformer_compiler.evaluator.latency import Network
from coformer_compiler.evaluator.many import CostModel, candidates_of, many_aggregator_mb, many_broken, many_memory_mb
from coformer_compiler.evaluator.memory import aggregator_mb, memory_mb
from coformer_compiler.model.spec import TransformerSpec
from coformer_targets import load_target
from tests.compiler.tiny import tiny_decoder, tiny_seq2seq, tiny_spec, tiny_t5

SPECS = {
    "class token": tiny_spec(embed=96, heads=6, head_dim=16, neurons=384, layers=3),
    "stem norm, mean": tiny_spec(
        embed=64, heads=4, head_dim=8, neurons=160, layers=2, stem_norm=True, mix=64, pool="mean"
    ),
    "an image larger than a narrow member's stream": tiny_spec(
        embed=48, heads=6, head_dim=8, neurons=96, layers=2, image=(64, 64), patch=(16, 16), channels=3
    ),
    "gated, relative positions": tiny_t5(embed=48, heads=4, head_dim=8, neurons=96),
    "continues texts": tiny_decoder(embed=48),
}


def cluster() -> tuple[Device, ...]:
    cpu, nano = load_target("cpu"), load_target("jetson-nano")
    return (
        Device("a", cpu, 10.0, 500.0, None, True),
        Device("b", nano, 7.0, 900.0, standby=True),
        Device("c", cpu, 5.0, 300.0),
    )


def memory_of(
    spec: TransformerSpec, members: Sequence[MaybeShape], devices: Sequence[Device], n: int, *, shortcuts: bool
) -> float:
    """Of one member by the formulas for one, and of the aggregator where its device has one."""
    member, target = members[n], devices[n].target
    assert member is not None
    features = float(sum(feature_widths(spec, kept_of(devices, members)[1])))
    own = memory_mb(member_cost(spec, member, shortcuts=shortcuts), target, target.precision)
    return own + (aggregator_mb(spec.head, features) if devices[n].aggregates else 0)


@pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
@pytest.mark.parametrize("shortcuts", [False, True])
def test_costs_and_latencies_are_those_of_single_policies(spec: TransformerSpec, shortcuts: bool) -> None:
    devices, network = cluster(), Network(20.0, 1.0)
    shape = teacher_shape(spec)
    encoding = Encoding(shape, devices, tuple(range(shape.layers)), False)
    random = np.random.default_rng(0)
    shapes = [encoding.decode(random.random(encoding.dimensions), [1.0] * 3) for _ in range(25)]
    assert any(None in members for members in shapes)
    model = CostModel(spec, shortcuts=shortcuts)
    assert model.exact
    candidates = candidates_of(shapes, shape.layers)
    costs = model.costs(candidates)
    memory = many_memory_mb(costs, devices, many_aggregator_mb(spec, candidates))
    space = Space(encoding, spec, network, shortcuts=shortcuts)
    times = space.latencies(shapes)
    for c, members in enumerate(shapes):
        for n, member in enumerate(members):
            if member is None:
                assert costs.params[c, n] == costs.flops[c, n] == 0
            else:
                want = member_cost(spec, member, shortcuts=shortcuts)
                got = costs.flops[c, n], costs.params[c, n], costs.peak_elements[c, n]
                assert got == (want.flops, want.params, want.peak_elements)
                assert memory[c, n] == pytest.approx(memory_of(spec, members, devices, n, shortcuts=shortcuts))
        one = space.latency.of_shapes(members, shortcuts=shortcuts)
        assert times.total_ms[c] == pytest.approx(one.total_ms, rel=1e-9)


def test_a_teacher_of_another_form_is_costed_one_by_one() -> None:
    spec = SPECS["class token"]
    model, slow = (CostModel(spec, shortcuts=True) for _ in range(2))
    slow.exact = False
    shape = teacher_shape(spec)
    encoding = Encoding(shape, cluster(), tuple(range(shape.layers)), False)
    shapes = candidates_of([encoding.decode(np.full(18, value), [1.0] * 3) for value in (0.2, 0.7)], shape.layers)
    for name in ("flops", "params", "peak_elements"):
        np.testing.assert_array_equal(getattr(model.costs(shapes), name), getattr(slow.costs(shapes), name))


def test_members_with_an_encoder_and_a_decoder_are_costed_one_by_one() -> None:
    """Their streams are two, and their layers unlike."""
    spec = tiny_seq2seq(embeds=(24, 24))
    shape, devices = teacher_shape(spec), cluster()
    encoding = Encoding(shape, devices, tuple(range(shape.layers)), False)
    shapes = [encoding.decode(np.full(18, value), [1.0] * 3) for value in (0.2, 0.5)]
    candidates = candidates_of(shapes, shape.layers)
    costs = CostModel(spec, shortcuts=True).costs(candidates)
    memory = many_memory_mb(costs, devices, many_aggregator_mb(spec, candidates))
    for c, members in enumerate(shapes):
        for n, member in enumerate(members):
            if member is not None:
                want = member_cost(spec, member, shortcuts=True)
                assert (costs.cached[c, n], costs.tables[c, n]) == (want.cached, want.tables) and want.cached > 0
                assert memory[c, n] == pytest.approx(memory_of(spec, members, devices, n, shortcuts=True))


def test_the_aggregator_breaks_c6_where_it_is_loaded() -> None:
    """One of many words, on the central device and on standby; it is as wide as all features together."""
    spec = tiny_decoder(embed=48)
    spec = replace(spec, head=replace(spec.head, classes=50_000))
    devices = cluster()
    encoding = Encoding(teacher_shape(spec), devices, (0, 1), False)
    shapes = encoding.decode(np.full(18, 0.4), [1.0] * 3)
    candidates = candidates_of([shapes], 2)
    costs = CostModel(spec, shortcuts=True).costs(candidates)
    features = sum(feature_widths(spec, kept_of(devices, shapes)[1]))
    aggregator = many_aggregator_mb(spec, candidates)
    assert aggregator == pytest.approx((features + 1) * 50_000 * 4 / 1e6)
    without = many_memory_mb(costs, devices, aggregator * 0)[0]
    tight = [replace(device, memory_mb=least + 1) for device, least in zip(devices, without, strict=True)]
    assert many_broken(costs, tight, aggregator * 0)["C6"].tolist() == [[False] * 3]
    assert many_broken(costs, tight, aggregator)["C6"].tolist() == [[True, True, False]]
    found = Space(Encoding(teacher_shape(spec), tight, (0, 1), False), spec, Network(), shortcuts=True)
    assert found.fit([shapes]).tolist() == [[False, False, True]]
