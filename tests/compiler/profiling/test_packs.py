"""Packs: whole, small, the same every time, and made of the graphs that would be shipped."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coformer_compiler.artifact import tree_digest
from coformer_compiler.decomposer.policy import TeacherShape, teacher_shape
from coformer_compiler.decomposer.shapes import member_spec
from coformer_compiler.frontends import ModelSource, import_model
from coformer_compiler.profiling.draws import drawn_shapes
from coformer_compiler.profiling.packs import (
    LEAST_WEIGHTS,
    MEAN_GRAPH,
    MOST_WEIGHTS,
    PACK_BYTES,
    member_graph,
    small_graph,
    weight_pool,
    weights_budget,
    write_pack,
)
from coformer_compiler.profiling.shared_weights import SMALLEST, SharedWeights, Windows, elements_within
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
        assert [v.name for v in ours.graph.outputs] == [v.name for v in shipped.graph.outputs]
        assert form(ours) == form(ir.from_proto(onnx.load_model_from_string(small_graph(shipped))))


def form(model: ir.Model) -> list[object]:
    nodes = [(n.op_type, [v and v.name for v in n.inputs], [v.name for v in n.outputs]) for n in model.graph]
    weights = {(v.name, str(v.shape), str(v.dtype)) for v in model.graph.initializers.values()}
    return [nodes, sorted(weights, key=str)]


def test_small_graphs_are_the_same_ones_by_other_names(tmp_path: Path) -> None:
    """Also where a node holds graphs of its own."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
    named (float[2,3] pixels, bool flag) => (float[2,3] features) <float[3] layers_0_bias = {1.0, 2.0, 3.0}> {
        layers_0_sum = Add (pixels, layers_0_bias)
        features = If (flag) <
            then_branch = then () => (float[2,3] kept) { kept = Identity (layers_0_sum) },
            else_branch = else () => (float[2,3] doubled) { doubled = Add (layers_0_sum, layers_0_bias) }
        >
    }"""
    model = ir.from_onnx_text(text)
    small = small_graph(model)
    assert b"layers_0" not in small and b"kept" not in small
    pixels = np.arange(6, dtype=np.float32).reshape(2, 3)
    for flag in (True, False):
        given = {"pixels": pixels, "flag": np.array(flag)}
        runs = [ort.InferenceSession(each) for each in (ir.to_proto(model).SerializeToString(), small)]
        one, two = (run.run(["features"], given)[0] for run in runs)
        assert np.array_equal(one, two)


def size_of_a_thousand(folder: Path) -> float:
    """Bytes of a pack of 1,000 like this one; its first two points are the largest and the smallest member."""
    graphs = [path.stat().st_size for path in sorted((folder / "graphs").glob("*.onnx"))]
    weights = sum(path.stat().st_size for path in (folder / "graphs").glob("weights.*"))
    manifest = (folder / "pack.json").stat().st_size
    return weights + 1000 * (np.mean(graphs[2:]) + manifest / len(graphs))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "precision", "count"), [("deit_tiny_patch16_224", "float32", 20), ("deit_base_patch16_224", "int8", 4)]
)
def test_a_pack_of_a_thousand_stays_under_200_mb(tmp_path: Path, name: str, precision: str, count: int) -> None:
    teacher = import_model(ModelSource(f"timm:{name}", "random")).spec
    target = with_precision(load_target("cpu"), precision)
    folder = write_pack(tmp_path / "pack", name, teacher, target, count).folder
    assert 30e6 < size_of_a_thousand(folder) < 200e6
    weights = sum(path.stat().st_size for path in (folder / "graphs").glob("weights.*"))
    assert weights <= MOST_WEIGHTS  # of all types of numbers together


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_deep_models_leave_room_for_weights(tmp_path: Path, precision: str) -> None:
    """The bytes of a graph go with its layers, whatever their widths."""
    deep = tiny_spec(embed=32, neurons=64, heads=4, head_dim=8, layers=48, image=(8, 8))
    folder = write_pack(tmp_path / "pack", "deep", deep, with_precision(load_target("cpu"), precision), 4).folder
    whole = (folder / "graphs" / "00000.onnx").stat().st_size
    assert whole * MEAN_GRAPH * 1000 + LEAST_WEIGHTS < 200e6
    graph = ir.load(folder / "graphs" / "00000.onnx")
    budget = weights_budget(graph, folder / "graphs", 1000)
    assert LEAST_WEIGHTS <= budget <= min(MOST_WEIGHTS, PACK_BYTES - int(1000 * MEAN_GRAPH * whole))
    assert weights_budget(graph, folder / "graphs", 100_000) == LEAST_WEIGHTS


def test_files_of_weights_share_one_budget(tmp_path: Path) -> None:
    target = with_precision(load_target("cpu"), "int8")
    pool = weight_pool(TEACHER, 0)
    graphs = [member_graph(TEACHER, target, pool, checked=True)]
    whole = elements_within(graphs, 1 << 30)
    assert whole.keys() == {"float32", "uint8"}
    needed = 4 * whole["float32"] + whole["uint8"]
    half = elements_within(graphs, needed // 2)
    assert 4 * half["float32"] + half["uint8"] <= needed // 2
    # Room for the largest tensor there is always.
    least = elements_within(graphs, 0)
    sizes = [value.const_value.size for value in graphs[0].graph.initializers.values() if value.const_value is not None]
    assert max(least.values()) >= max(sizes) and min(least.values()) > 0
    weights = SharedWeights(tmp_path, least)
    weights.write(0)
    weights.replace(graphs[0])
    assert {path.name: path.stat().st_size for path in tmp_path.iterdir()} == {
        "weights.float32": 4 * least["float32"],
        "weights.uint8": least["uint8"],
    }


def test_a_tensor_may_be_larger_than_the_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of words is, in most models of texts."""
    monkeypatch.setattr("coformer_compiler.profiling.packs.LARGEST_POOL", 100)
    written = write_pack(tmp_path / "pack", "text", VARIANTS["text, post-norm"], load_target("cpu"), 3)
    assert profile_pack(open_pack(str(written.folder)), str(tmp_path / "points.csv"), 1)[0] == 3


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
    assert {path.name for path in (tmp_path / "pack" / "graphs").glob("weights.*")} >= {"weights.uint8"}
    assert profile_pack(opened, str(tmp_path / "points.csv"), 1)[0] == 3


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CoformerError, match="its engine is tensorrt-rtx, which `coformer-node profile` does not run"):
        pack(tmp_path / "pack", "rtx-ada")
    with pytest.raises(CoformerError, match="-n is 1; give at least 2"):
        pack(tmp_path / "pack", count=1)
    pack(tmp_path / "pack", count=2)
    with pytest.raises(CoformerError, match="is there already; remove it, or name another folder with -o"):
        pack(tmp_path / "pack")
