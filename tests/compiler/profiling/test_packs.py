"""Packs: whole, small, the same every time, and made of the graphs that would be shipped."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coformer_compiler.artifact import tree_digest
from coformer_compiler.decomposer.policy import TeacherShape, teacher_shape
from coformer_compiler.decomposer.shapes import member_spec
from coformer_compiler.profiling.draws import drawn_shapes
from coformer_compiler.profiling.packs import write_pack
from coformer_compiler.profiling.shared_weights import SMALLEST, Windows
from coformer_compiler.stages.lower import legal_graph
from coformer_runtime.errors import CoformerError
from coformer_runtime.profile import profile_pack
from coformer_runtime.profile_pack import open_pack
from coformer_runtime.profile_points import read_points
from coformer_targets import load_target, with_precision
from tests.compiler.tiny import VARIANTS, random_model, tiny_spec

TEACHER = tiny_spec(embed=32, neurons=64, heads=4, head_dim=8, layers=3, image=(8, 8))


@given(
    layers=st.integers(1, 6),
    heads=st.integers(1, 8),
    steps=st.integers(2, 20),
    step=st.sampled_from([4, 8, 16]),
    count=st.integers(2, 40),
    seed=st.integers(0, 5),
)
def test_drawn_shapes_are_policies(layers: int, heads: int, steps: int, step: int, count: int, seed: int) -> None:
    shape = TeacherShape(layers, steps * step, (heads,) * layers, (2 * steps * step,) * layers)
    drawn = drawn_shapes(shape, step, count, seed)
    assert drawn == drawn_shapes(shape, step, count, seed) and len(drawn) == count
    for member, _ in drawn:
        assert member.heads.keys() == member.neurons.keys() and 0 < len(member.heads) <= layers
        assert 0 < member.embed <= shape.embed and member.embed % step == 0
        assert all(1 <= n <= heads for n in member.heads.values())
        assert all(step <= n <= 2 * steps * step and n % step == 0 for n in member.neurons.values())


def test_draws_cover_the_whole_range() -> None:
    drawn = [shape for shape, _ in drawn_shapes(TeacherShape(12, 192, (3,) * 12, (768,) * 12), 8, 200, 0)]
    assert {shape.embed for shape in drawn} == set(range(8, 193, 8))
    assert {len(shape.heads) for shape in drawn} == set(range(1, 13))
    assert {n for shape in drawn for n in shape.heads.values()} == {1, 2, 3}


@given(sizes=st.lists(st.integers(1, 900), max_size=30), capacity=st.integers(1000, 6000))
def test_windows_lie_within_and_apart(sizes: list[int], capacity: int) -> None:
    windows, spans = Windows(capacity), []
    for size in sizes:
        start = windows.take(size)
        assert start >= 0 and start + size <= capacity
        spans.append((start, start + size))
    if sum(-(-size // 256) * 256 for size in sizes) <= capacity:
        assert all(one[1] <= two[0] for one, two in itertools.pairwise(spans))


def pack(folder: Path, target: str = "cpu", count: int = 6, **more: object) -> Path:
    return write_pack(folder, "tiny", TEACHER, load_target(target), count, **more).folder  # type: ignore[arg-type]


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    one, two, other = pack(tmp_path / "one"), pack(tmp_path / "two"), pack(tmp_path / "other", seed=1)
    assert tree_digest(one) == tree_digest(two) != tree_digest(other)


@pytest.mark.parametrize("target", ["cpu", "jetson-nano", "jetson-orin-nano"])
def test_graphs_are_those_that_are_shipped_but_for_weights(tmp_path: Path, target: str) -> None:
    """Nodes, shapes and types of every graph are those of a trained member of its shape."""
    folder, device = pack(tmp_path / "pack", target), load_target(target)
    drawn = drawn_shapes(teacher_shape(TEACHER), 4, 6, 0)
    pixels = np.zeros((1, *TEACHER.stem.input.shape), np.uint8)
    for point, (shape, shortcuts) in zip(open_pack(str(folder)).points, drawn, strict=True):
        assert (point.shape.embed, point.shape.shortcuts) == (shape.embed, shortcuts)
        ours = ir.load(folder / point.graph)
        member = random_model(member_spec(TEACHER, shape, shortcuts=shortcuts))
        shipped = legal_graph(member, device, pixels)
        assert form(ours) == form(shipped)


def form(model: ir.Model) -> list[object]:
    nodes = [(n.op_type, [v and v.name for v in n.inputs], [v.name for v in n.outputs]) for n in model.graph]
    weights = {(v.name, str(v.shape), str(v.dtype)) for v in model.graph.initializers.values()}
    return [nodes, sorted(weights, key=str)]


def test_large_tensors_are_shared_and_small_ones_stay(tmp_path: Path) -> None:
    folder = pack(tmp_path / "pack")
    for path in sorted((folder / "graphs").glob("*.onnx")):
        proto = onnx.load(path, load_external_data=False)
        outside = {t.name: t for t in proto.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL}
        for tensor in proto.graph.initializer:
            large = tensor.data_type == onnx.TensorProto.FLOAT and np.prod(tensor.dims) >= SMALLEST
            assert (tensor.name in outside) == large
        places = [{e.key: e.value for e in tensor.external_data} for tensor in outside.values()]
        assert {place["location"] for place in places} <= {"weights.float32"}
        spans = sorted((int(p["offset"]), int(p["offset"]) + int(p["length"])) for p in places)
        assert all(one[1] <= two[0] for one, two in itertools.pairwise(spans))


@pytest.mark.parametrize(
    "kind", ["class token", "score bias", "text, pairs", "text, post-norm", "rms query norm", "stages and windows"]
)
def test_every_family_is_measured_to_the_end(tmp_path: Path, kind: str) -> None:
    written = write_pack(tmp_path / "pack", kind, VARIANTS[kind], load_target("cpu"), 3)
    csv = tmp_path / "points.csv"
    assert profile_pack(open_pack(str(written.folder)), str(csv), 1)[0] == 3
    assert read_points(str(csv)).provenance.model == kind


def test_halves_are_shared_too(tmp_path: Path) -> None:
    target = with_precision(load_target("jetson-orin-nano"), "float16")
    folder = write_pack(tmp_path / "pack", "tiny", TEACHER, target, 2).folder
    assert {path.name for path in (folder / "graphs").glob("weights.*")} >= {"weights.float16"}
    halves = np.fromfile(folder / "graphs" / "weights.float16", np.float16)
    assert np.isfinite(halves).all() and 0.04 < halves.astype(np.float32).std() < 0.06
    assert open_pack(str(folder)).recipe == "recipe.json"


def test_eight_bits_keep_their_scales(tmp_path: Path) -> None:
    target = with_precision(load_target("cpu"), "int8")
    opened = open_pack(str(write_pack(tmp_path / "pack", "tiny", TEACHER, target, 3).folder))
    assert opened.precision == "int8"
    assert {path.name for path in (tmp_path / "pack" / "graphs").glob("weights.*")} >= {"weights.int8"}
    assert profile_pack(opened, str(tmp_path / "points.csv"), 1)[0] == 3


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CoformerError, match="its engine is tensorrt-rtx, which `coformer-node profile` does not run"):
        pack(tmp_path / "pack", "rtx-ada")
    with pytest.raises(CoformerError, match="-n is 1; give at least 2"):
        pack(tmp_path / "pack", count=1)
    pack(tmp_path / "pack", count=2)
    with pytest.raises(CoformerError, match="is there already; remove it, or name another folder with -o"):
        pack(tmp_path / "pack")
