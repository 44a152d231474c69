"""Tests of coformer_passes.graph_files; what it refuses is tested with the command `coformerc legalize`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from coformer_passes.graph_files import INLINE_BYTES, random_inputs, read_graph, save_graph
from coformer_targets import engine_from_onnx, load_target

WEIGHT = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
GRAPH = "g (float[1,64] x) => (float[1,64] y) { p = MatMul(x, w) y = Relu(p) }"


def test_big_weights_go_into_a_file_of_their_own(parse, outputs, tmp_path: Path) -> None:
    model = parse(GRAPH, {"w": WEIGHT})
    path = tmp_path / "member.onnx"
    save_graph(model, path, inline_bytes=1000)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["member.onnx", "member.onnx.data"]
    assert path.stat().st_size < 1000 < (tmp_path / "member.onnx.data").stat().st_size
    x = np.ones((1, 64), np.float32)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], outputs(model, x=x)[0])
    assert engine_from_onnx(load_target("jetson-nano"), path).inputs == {"x": (1, 64)}
    assert engine_from_onnx(load_target("cpu"), path).graph_bytes > WEIGHT.nbytes
    np.testing.assert_array_equal(read_graph(path).graph.initializers["w"].const_value.numpy(), WEIGHT)


def test_others_stay_within_the_graph(parse, tmp_path: Path) -> None:
    save_graph(parse(GRAPH, {"w": WEIGHT}), tmp_path / "member.onnx")
    assert [each.name for each in tmp_path.iterdir()] == ["member.onnx"]
    assert 1.4e9 < INLINE_BYTES < 2**31


def test_a_graph_is_written_whole_or_not_at_all(parse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "member.onnx"
    save_graph(parse(GRAPH, {"w": WEIGHT}), path)
    before = path.read_bytes()

    def fail(model: ir.Model, draft: Path, **_: object) -> None:
        draft.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ir, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        save_graph(parse(GRAPH, {"w": WEIGHT}), path)
    assert path.read_bytes() == before and [each.name for each in tmp_path.iterdir()] == ["member.onnx"]


def test_random_inputs_have_the_graphs_shapes_and_types(parse) -> None:
    text = "g (float[2,3] a, uint8[2,3] b, int64[2] c, bool[3] d, float16[1] e) => (float[2,3] y) { y = Relu(a) }"
    first, second = random_inputs(parse(text))
    assert {name: (array.shape, array.dtype.name) for name, array in first.items()} == {
        "a": ((2, 3), "float32"),
        "b": ((2, 3), "uint8"),
        "c": ((2,), "int64"),
        "d": ((3,), "bool"),
        "e": ((1,), "float16"),
    }
    assert set(first["c"].tolist()) <= {0, 1} and (first["a"] != second["a"]).any()
    again = random_inputs(parse(text))[0]
    assert all((again[name] == first[name]).all() for name in first)


def test_a_graph_whose_functions_define_its_operators_is_read(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["": 20, "mine": 1]> g (float[4] x) => (float[4] y) { y = mine.twice(x) }
    <domain: "mine", opset_import: ["": 20]> twice (a) => (b) { b = Add(a, a) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "functions.onnx")
    assert len(read_graph(tmp_path / "functions.onnx").functions) == 1
