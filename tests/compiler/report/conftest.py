"""Reports as builds make them: the digits demo, a big teacher on four boards, and one with nothing measured."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random

import pytest

from coformer_compiler.report.schema import (
    Accuracy,
    Cost,
    Device,
    Evaluation,
    Latency,
    LinearMatch,
    MemberCost,
    MemberPrediction,
    ModelCost,
    Note,
    OtherSearch,
    Phase,
    Prediction,
    Report,
    Search,
    Span,
    Stage,
    Timing,
)

ROLES = (("attention", "reader"), ("attention", "writer"), ("mlp", "reader"), ("mlp", "writer"))


def dealt(count: int, shares: list[float], rng: random.Random) -> list[list[int]]:
    """Indices 0 … count − 1 dealt out at random by share; what the shares leave over stays out."""
    order = list(range(count))
    rng.shuffle(order)
    ends = [0, *(round(count * total) for total in itertools.accumulate(shares))]
    return [sorted(order[a:b]) for a, b in itertools.pairwise(ends)]


def policy(names, embeds, shares, layers, embed, heads, neurons, dropped=()):
    rng = random.Random(7)
    members = [{"device": name, "embed": width, "layers": []} for name, width in zip(names, embeds, strict=True)]
    for layer in range(layers):
        active = [0.0 if (n, layer) in dropped else share for n, share in enumerate(shares)]
        rows = zip(dealt(heads, active, rng), dealt(neurons, active, rng), strict=True)
        for n, (kept_heads, kept_neurons) in enumerate(rows):
            if (n, layer) not in dropped:
                members[n]["layers"].append({"layer": layer, "heads": kept_heads, "neurons": kept_neurons})
    teacher = {"layers": layers, "embed": embed, "heads": [heads] * layers, "neurons": [neurons] * layers}
    return {"format": "coformer-policy/1", "strategy": "proportional", "teacher": teacher, "members": members}


def matches(made, quality):
    rng = random.Random(3)
    found = []
    for n, member in enumerate(made["members"]):
        for row in member["layers"]:
            for block, kind in ROLES:
                lost = quality[n] * (0.3 + row["layer"] / made["teacher"]["layers"]) * rng.uniform(0.4, 1.6)
                lost *= 1.8 if kind == "writer" else 1.0
                found.append(LinearMatch(n, f"layers.{row['layer']}.{block}", kind, 1 - min(lost, 1.2), 1e-3))
        found.append(LinearMatch(n, "head", "reader", 1 - quality[n], 1e-2))
    return tuple(found)


def phases(members, steps, best, joint_kept):
    rng = random.Random(5)
    made = []
    for n in range(members):
        at = tuple(range(0, steps + 1, 5))
        loss = (None, *(0.08 + 0.1 * n + 1.4 * math.exp(-5 * s / steps) * rng.uniform(0.85, 1.15) for s in at[1:]))
        checked = tuple(best[n] - 0.2 * math.exp(-6 * s / steps) if s % 50 == 0 else None for s in at)
        made.append(Phase("member", n, at, loss, checked))
    at = tuple(range(0, 201, 5))
    loss = tuple(0.06 + 0.2 * math.exp(-3 * s / 200) * rng.uniform(0.85, 1.15) for s in at)
    checked = tuple(0.965 - 0.004 * math.sin(s / 30) if s % 25 == 0 else None for s in at)
    made.append(Phase("joint", None, at, loss, checked, kept=joint_kept))
    return tuple(made)


def searched(count: int, rng: random.Random) -> Search:
    """Two starts, then policies that get better."""
    found = tuple(
        Evaluation(loss + 0.05 * latency, loss, latency, 40 * latency, 3 - n % 2)
        for n in range(count)
        for loss in [0.05 + rng.random() / (n + 2)]
        for latency in [0.4 + rng.random()]
    )
    front = sorted(
        (n for n, one in enumerate(found) if not any(o.loss < one.loss and o.latency < one.latency for o in found)),
        key=lambda n: found[n].latency,
    )
    best = min(range(count), key=lambda n: found[n].objective)
    binding = {"C6 of 'hall'": 0.12, "C5 of 'desk'": 0.04}
    return Search("debo", "best", found, tuple(front), best, 0.84, binding, estimated=False)


def digits() -> Report:
    names = ("attic", "hall", "desk")
    made = policy(names, (40, 24, 32), (0.4, 0.2, 0.32), 6, 96, 6, 384, dropped={(1, 4), (2, 2)})
    subsets = {"0": 0.941, "1": 0.858, "2": 0.917, "0-1": 0.956, "0-2": 0.967, "1-2": 0.936, "0-1-2": 0.975}
    before = {"0": 0.883, "1": 0.733, "2": 0.822, "0-1": 0.903, "0-2": 0.914, "1-2": 0.858, "0-1-2": 0.925}
    return Report(
        title="Handwritten digits on three devices",
        teacher="timm:vit_tiny_patch16_224",
        data="digits",
        split="test",
        seed=0,
        basis="per-norm",
        build="3f9a1c" + "7d" * 29,
        digests={"policy": "b1" * 32, "teacher": "09" * 32},
        versions={"coformer-compiler": "0.1.0", "torch": "2.13.0", "onnxruntime": "1.32.0", "python": "3.11.9"},
        devices=(
            Device("attic", "cpu", "onnxruntime 1.32.0", 512, 12.0, central=True),
            Device("hall", "cpu", "onnxruntime 1.32.0", 384, 8.0),
            Device("desk", "cpu", "onnxruntime 1.32.0", 256, 10.0),
        ),
        policy=made,
        accuracy=Accuracy(
            0.977, 0.975, (0.941, 0.858, 0.917), (0.883, 0.733, 0.822), 0.925, subsets, before, samples=360
        ),
        cost=Cost(
            ModelCost(24_031_872, 672_010),
            (
                MemberCost("attic", "cpu", 4_710_144, 128_074, 531_204, 160, 64, 61_800_000),
                MemberCost("hall", "cpu", 1_402_368, 39_690, 171_880, 96, 64, 58_100_000),
                MemberCost("desk", "cpu", 2_883_584, 80_362, 338_920, 128, 64, 59_700_000),
            ),
            ModelCost(1_920, 970),
        ),
        latency_ms=Latency(
            Timing(1.84, 2.31, 50),
            Timing(1.52, 2.07, 50),
            (Timing(0.412, 0.55, 50), Timing(0.286, 0.391, 50), Timing(0.344, 0.47, 50)),
        ),
        predicted_ms=Prediction(
            1.44,
            0.02,
            False,
            (
                MemberPrediction(0.405, 0.405, False, "predicted from measurements on a server, 2 cores"),
                MemberPrediction(0.301, 1.21, False, "predicted from measurements on a server, 2 cores"),
                MemberPrediction(0.352, 1.42, False, "predicted from measurements on a server, 2 cores"),
            ),
        ),
        search=searched(30, random.Random(3)),
        match=matches(made, (0.03, 0.2, 0.08)),
        history=phases(3, 300, (0.95, 0.87, 0.925), joint_kept=False),
        timeline=(
            Span("hall", "input", 0.05, 0.31),
            Span("desk", "input", 0.06, 0.36),
            Span("attic", "compute", 0.07, 0.49),
            Span("hall", "compute", 0.31, 0.6),
            Span("desk", "compute", 0.36, 0.72),
            Span("hall", "features", 0.6, 0.95),
            Span("desk", "features", 0.72, 1.31),
            Span("attic", "aggregate", 1.32, 1.49),
        ),
        stages=(
            Stage("import", 0.41),
            Stage("calibrate", 2.2, cached=True),
            Stage("decompose", 0.02),
            Stage("transplant", 8.7),
            Stage("boost", 96.4),
            Stage("lower", 0.3),
            Stage("legalise", 1.1),
            Stage("build engines", 0.8),
            Stage("pack", 0.1),
        ),
        notes=(Note("note", "joint phase not kept: validation fell from 97.2 to 96.9 %"),),
    )


def big() -> Report:
    names = ("orin-kitchen", "orin-porch", "pi-garage", "nano-cellar")
    targets = ("jetson-orin-nano", "jetson-orin-nano", "raspberry-pi-5", "jetson-nano")
    dropped = {(3, layer) for layer in (3, 7, 11, 15, 19, 20, 21, 22)} | {(2, layer) for layer in (9, 17, 21)}
    made = policy(names, (320, 272, 176, 128), (0.34, 0.27, 0.18, 0.125), 24, 1024, 16, 4096, dropped)
    value = {1: 0.6, 2: 0.71, 3: 0.783, 4: 0.822}
    subsets, before = {}, {}
    for size in range(4, 0, -1):
        for members in itertools.combinations(range(4), size):
            name = "-".join(map(str, members))
            subsets[name] = round(value[size] - 0.01 * sum(members) / size, 4)
            before[name] = round(subsets[name] - 0.11, 4)
    alone = tuple(subsets[str(n)] - 0.004 for n in range(4))
    flops = (19_800_000_000, 12_400_000_000, 5_300_000_000, 2_100_000_000)
    params = (48_600_000, 31_200_000, 13_100_000, 5_400_000)
    return Report(
        title="ImageNet-1k, ViT-L on four boards",
        teacher="timm:vit_large_patch16_224.augreg_in21k_ft_in1k",
        data="imagefolder:imagenet",
        split="test",
        seed=17,
        basis="global",
        build="c0ffee" + "ab" * 29,
        digests={"policy": "5e" * 32},
        versions={"coformer-compiler": "0.1.0", "torch": "2.13.0", "tensorrt": "8.2.1", "onnxruntime": "1.32.0"},
        devices=tuple(
            Device(n, t, e, m, g, central=n == "orin-kitchen")
            for n, t, e, m, g in zip(
                names, targets,
                ("tensorrt 8.6.2", "tensorrt 8.6.2", "onnxruntime 1.32.0", "tensorrt 8.2.1"),
                (8192, 8192, 8192, 4096), (1280.0, 1280.0, 180.0, 236.0), strict=True,
            )
        ),
        policy=made,
        accuracy=Accuracy(
            0.858, 0.822, alone, tuple(a - 0.2 for a in alone), 0.714, subsets, before, samples=50_000
        ),
        cost=Cost(
            ModelCost(123_100_000_000, 304_330_000),
            tuple(
                MemberCost(n, t, f, p, 4 * p + 91_000 if t.startswith("rasp") else None, 4 * w, 150_528, 9 * p)
                for n, t, f, p, w in zip(names, targets, flops, params, (320, 272, 176, 128), strict=True)
            ),
            ModelCost(2_800_000, 1_944_000),
        ),
        latency_ms=Latency(None, None, (None, None, Timing(231.5, 266.1, 50), None)),
        predicted_ms=Prediction(
            48.1,
            0.01,
            True,
            tuple(
                MemberPrediction(t, t + 2.0, True, f"estimated from {g:g} GFLOPS")
                for t, g in ((15.5, 1280.0), (9.7, 1280.0), (29.4, 180.0), (46.1, 236.0))
            ),
        ),
        match=matches(made, (0.02, 0.05, 0.15, 0.4)),
        history=phases(4, 2000, (0.69, 0.66, 0.6, 0.52), joint_kept=True),
        stages=(Stage("import", 12.5), Stage("transplant", 341.0), Stage("boost", 15_300.0), Stage("pack", 4.0)),
        notes=(
            Note("warning", "pi-garage: 97 % of its memory planned for"),
            Note("note", "jetson engines are built on the boards: run coformer-node build there"),
        ),
        absent={
            "latency_ms": "TensorRT engines are built on the boards",
            "cost.members": "TensorRT engines are built on the boards",
            "timeline": "no request was traced: not all engines run on this host",
        },
    )  # fmt: skip


def bare_of_everything() -> Report:
    """Everything that may be absent is."""
    made = policy(("one",), (4,), (0.5,), 2, 8, 2, 8)
    return Report(
        title="Nothing measured",
        teacher="a",
        data="npz:x",
        split="test",
        seed=1,
        basis=None,
        build="0" * 64,
        digests={},
        versions={},
        devices=(Device("one", "cpu", "onnxruntime 1.32.0", 1, 1.0, central=True),),
        policy=made,
        accuracy=Accuracy(None, None, (None,), (None,), None, {}),
        cost=Cost(ModelCost(1000, 100), (MemberCost("one", "cpu", 10, 10, None, 16),)),
        latency_ms=Latency(None, None, (None,)),
        absent={"accuracy": "dry run", "history": "booster.steps is 0"},
    )


@pytest.fixture
def digits_report() -> Report:
    return digits()


@pytest.fixture
def compared_report() -> Report:
    """The digits demo with limits on every device, and beside other searches."""
    report, rng = digits(), random.Random(4)
    strategies = ("random", "debo-paper", "debo", "optuna-gp", "debo")
    others = tuple(OtherSearch(name, tuple(0.1 + rng.random() for _ in range(40))) for name in strategies)
    assert report.search is not None
    devices = tuple(dataclasses.replace(each, max_gflop=0.005, deadline_ms=4.8) for each in report.devices)
    return dataclasses.replace(report, devices=devices, search=dataclasses.replace(report.search, others=others))


@pytest.fixture
def big_report() -> Report:
    return big()


@pytest.fixture
def bare_report() -> Report:
    return bare_of_everything()


@pytest.fixture(scope="session")
def bare() -> Report:
    """For property tests, which take no fixture that is made anew for each test."""
    return bare_of_everything()
