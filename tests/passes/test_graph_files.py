"""Tests of coformer_passes.graph_files; what it refuses is tested with the command `coformerc legalize`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from coformer_passes.graph_files import INLINE_BYTES, read_graph, save_graph
from coformer_runtime.errors import CoformerError
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


def test_a_graph_whose_functions_define_its_operators_is_read(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["": 20, "mine": 1]> g (float[4] x) => (float[4] y) { y = mine.twice(x) }
    <domain: "mine", opset_import: ["": 20]> twice (a) => (b) { b = Add(a, a) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "functions.onnx")
    assert len(read_graph(tmp_path / "functions.onnx").functions) == 1


def test_a_constant_node_in_a_file_beside_the_graph_is_read(tmp_path: Path) -> None:
    """onnx_ir leaves tensors of attributes where they are, and ONNX Runtime would look for them in its own folder."""
    proto = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["": 20]> g (float[4] x) => (float[4] y) {
        c = Constant<value = float[4] {1, 2, 3, 4}>() y = Add(x, c) }""")
    proto.graph.node[0].attribute[0].t.CopyFrom(onnx.numpy_helper.from_array(np.arange(1, 5, dtype=np.float32)))
    onnx.save(proto, tmp_path / "c.onnx", save_as_external_data=True, size_threshold=0, convert_attribute=True)
    assert len(list(tmp_path.iterdir())) == 2
    tensor = read_graph(tmp_path / "c.onnx").graph.node(0).attributes["value"].as_tensor()
    assert not isinstance(tensor, ir.ExternalTensor) and tensor.numpy().tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("location", ["../x.data", "/etc/passwd", "a/../../x.data", r"C:\x.data", r"..\x.data"])
def test_data_outside_of_the_graphs_folder_is_refused(tmp_path: Path, location: str) -> None:
    path = tmp_path / "inner" / "g.onnx"
    path.parent.mkdir()
    (tmp_path / "x.data").write_bytes(WEIGHT.tobytes())
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> {GRAPH}')
    tensor = proto.graph.initializer.add(name="w", dims=[64, 64], data_type=1, data_location=1)
    tensor.external_data.add(key="location", value=location)
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(CoformerError) as caught:
        read_graph(path)
    assert str(caught.value) == (
        f"graph g.onnx: initializer 'w' has its data in '{location}', outside of the graph's folder; "
        "export it with its data in a file beside it, or within the graph"
    )


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ({"offset": "-1"}, "16384 bytes, and the offset '-1' in its file"),
        ({"length": "many"}, "16384 bytes, and the length 'many' in its file"),
        ({"length": "100"}, "16384 bytes, and 'w.data' holds 100 bytes of it"),
        ({"offset": "16000"}, "16384 bytes, and 'w.data' holds 384 bytes of it"),
        ({"location": "no.data"}, "16384 bytes, and 'no.data' holds 0 bytes of it"),
    ],
)
def test_data_that_is_not_all_in_its_file(tmp_path: Path, entries: dict[str, str], problem: str) -> None:
    (tmp_path / "w.data").write_bytes(WEIGHT.tobytes())
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> {GRAPH}')
    tensor = proto.graph.initializer.add(name="w", dims=[64, 64], data_type=1, data_location=1)
    for key, value in {"location": "w.data", **entries}.items():
        tensor.external_data.add(key=key, value=value)
    (tmp_path / "g.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(CoformerError) as caught:
        read_graph(tmp_path / "g.onnx")
    assert str(caught.value) == (
        f"graph g.onnx: initializer 'w' says the shape [64,64], {problem}; its file is damaged: export it again"
    )
