"""Tests of `coformerc legalize`: foreign graphs, good and bad."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from coformer_compiler.cli import main

NORM = """<ir_version: 10, opset_import: ["": 18]> g (float[1,4,8] x) => (float[1,4,8] y)
{ n = LayerNormalization(x, gain) p = MatMul(n, w) y = HardSwish(p) }"""
RANDOM = np.random.default_rng(0)
ARRAYS = {"gain": np.ones(8, np.float32), "w": RANDOM.standard_normal((8, 8)).astype(np.float32)}


def _write(path: Path, text: str, arrays: dict[str, np.ndarray] | None = None) -> Path:
    proto = onnx.parser.parse_model(text)
    for name, array in (arrays or {}).items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(proto, path)
    return path


@pytest.fixture
def legalize(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Runs the command; returns its exit code, what it printed and its error."""

    def run(graph: Path, *options: str, target: str = "jetson-nano") -> tuple[int, str, str]:
        code = main(["legalize", str(graph), "--target", target, "-o", str(tmp_path / "out" / "legal.onnx"), *options])
        out, err = capsys.readouterr()
        assert (tmp_path / "out" / "legal.onnx").exists() is (code == 0)
        return code, out, err

    return run


def _outputs(path: Path, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


@pytest.mark.parametrize("target", ["jetson-nano", "jetson-orin-nano@jp6.0", "rtx-ada", "cpu"])
def test_a_foreign_graph_becomes_legal_and_stays_equal(legalize, tmp_path, target) -> None:
    graph = _write(tmp_path / "norm.onnx", NORM, ARRAYS)
    code, out, err = legalize(graph, target=target)
    assert (code, err) == (0, "") and f"legal for {target}" in out
    x = RANDOM.standard_normal((1, 4, 8)).astype(np.float32)
    legal = tmp_path / "out" / "legal.onnx"
    np.testing.assert_allclose(_outputs(legal, x), _outputs(graph, x), rtol=1e-5, atol=1e-5)
    if target == "jetson-nano":
        model = onnx.load(legal)
        assert (model.opset_import[0].version, model.ir_version) == (13, 7)
        assert not {"LayerNormalization", "HardSwish"} & {node.op_type for node in model.graph.node}


def test_what_was_done_as_json(legalize, tmp_path) -> None:
    code, out, _ = legalize(_write(tmp_path / "norm.onnx", NORM, ARRAYS), "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["target"], found["engine"], found["precision"]) == ("jetson-nano", "tensorrt 8.2.1", "float32")
    assert found["opset"] == {"before": 18, "after": 13}
    assert found["operators"]["before"] == {"HardSwish": 1, "LayerNormalization": 1, "MatMul": 1}
    assert "decompose_layer_norm" in [record["name"] for record in found["passes"] if record["modified"]]


def test_a_target_file(tmp_path, capsys) -> None:
    text = (Path(__file__).parents[3] / "targets/coformer_targets/devices/cpu.toml").read_text(encoding="utf-8")
    (tmp_path / "attic.toml").write_text(text, encoding="utf-8")
    graph = _write(tmp_path / "norm.onnx", NORM, ARRAYS)
    options = ["-o", str(tmp_path / "legal.onnx")]
    assert main(["legalize", str(graph), "--target-file", str(tmp_path / "attic.toml"), *options]) == 0
    assert "legal for attic" in capsys.readouterr().out
    assert main(["legalize", str(graph), *options]) == 2
    assert capsys.readouterr().err == (
        "error: legalize: no target is given, or two; give one of --target and --target-file\n"
    )


def test_everything_that_cannot_be_lowered_is_listed_at_once(legalize, tmp_path) -> None:
    graph = _write(
        tmp_path / "odd.onnx",
        """<ir_version: 10, opset_import: ["": 20]> g (float[4,4] x) => (float[4,4] y, bool[4,4] z)
        { b = Trilu(x) a = Trilu(b) c = Det(a) y = Add(a, c) z = IsInf(y) }""",
    )
    code, _, err = legalize(graph)
    assert code == 2
    assert err == (
        "error: lower_opset: 2 of the nodes cannot be written in opset 13 of jetson-nano: "
        "'a' (Trilu: not in opset 13), 'b' (Trilu: not in opset 13); besides, its engine refuses "
        "'c' (Det: no importer), 'z' (IsInf: no importer); "
        "Det: write it with operators of the table, or take a newer target; "
        "IsInf: remove it: the pass fold_constants does where its input is constant; "
        "Trilu: give the mask as an initializer: with static shapes the pass fold_constants does\n"
    )


def _message(legalize, graph: Path, *options: str, target: str = "jetson-nano") -> str:
    code, _, err = legalize(graph, *options, target=target)
    assert code == 2
    return str(err)


def test_a_missing_file(legalize, tmp_path) -> None:
    assert _message(legalize, tmp_path / "no.onnx") == (
        "error: graph no.onnx: cannot be read (No such file or directory); give the path of a readable ONNX file\n"
    )


@pytest.mark.parametrize("kept", [0, 1, 40, -1, -100])
def test_a_truncated_file(legalize, tmp_path, kept) -> None:
    graph = _write(tmp_path / "cut.onnx", NORM, ARRAYS)
    graph.write_bytes(graph.read_bytes()[:kept])
    message = _message(legalize, graph)
    assert message.startswith("error: graph cut.onnx: is truncated, or no ONNX file at all (")
    assert message.endswith("; give an ONNX file that is whole\n")


def test_a_cycle_names_its_nodes(legalize, tmp_path) -> None:
    text = NORM.split("{")[0] + "{ a = Add(x, c) b = Relu(a) c = Neg(b) y = Exp(b) }"
    assert _message(legalize, _write(tmp_path / "round.onnx", text)) == (
        "error: graph round.onnx: its nodes form a cycle: 'a' (Add), 'b' (Relu), 'c' (Neg); "
        "export it again: a graph must be acyclic\n"
    )


def test_nodes_out_of_order_are_sorted(legalize, tmp_path) -> None:
    text = NORM.split("{")[0] + "{ y = Exp(b) b = Relu(a) a = Add(x, x) }"
    assert legalize(_write(tmp_path / "mixed.onnx", text))[0] == 0


def test_a_value_that_nothing_makes(legalize, tmp_path) -> None:
    text = NORM.split("{")[0] + "{ a = Add(x, lost) y = Relu(a) }"
    assert _message(legalize, _write(tmp_path / "loose.onnx", text)) == (
        "error: graph loose.onnx: 'a' (Add) reads 'lost', which nothing makes; its file is damaged: export it again\n"
    )


def test_custom_domains_are_all_named(legalize, tmp_path) -> None:
    text = NORM.replace('["": 18]', '["": 18, "com.acme": 1]').split("{")[0]
    text += "{ a = com.acme.Flash(x) b = com.acme.Norm(a) y = Relu(b) }"
    assert _message(legalize, _write(tmp_path / "custom.onnx", text)) == (
        "error: graph custom.onnx: 'a' (Flash) is of the domain 'com.acme'; 'b' (Norm) is of the domain 'com.acme'; "
        "export it with ONNX's own operators, or with the functions that define these\n"
    )


@pytest.mark.parametrize("target", ["jetson-nano", "cpu"])
def test_dynamic_shapes(legalize, tmp_path, target) -> None:
    graph = _write(tmp_path / "open.onnx", NORM.replace("1,4,8", "batch,4,8"), ARRAYS)
    assert _message(legalize, graph, target=target) == (
        "error: graph open.onnx: input 'x' has the dynamic shape [batch,4,8]; "
        "export it with static shapes, or give them: --shape x=1,3,224,224\n"
    )
    assert _message(legalize, graph, "--shape", "x=1,5,8", target=target) == (
        "error: graph open.onnx: input 'x' is [batch,4,8], [1, 5, 8] does not fit; "
        "give another shape, or leave it out\n"
    )
    assert _message(legalize, graph, "--shape", "z=1", target=target).startswith(
        "error: graph open.onnx: it has no input 'z'; its inputs are x"
    )
    assert legalize(graph, "--shape", "x=3,4,8", target=target)[0] == 0


def test_a_shape_that_is_none(legalize, tmp_path) -> None:
    graph = _write(tmp_path / "norm.onnx", NORM, ARRAYS)
    assert _message(legalize, graph, "--shape", "x=1,b") == (
        "error: --shape: 'x=1,b' is no shape of an input; write INPUT=1,3,224,224\n"
    )


def test_a_shape_that_its_data_lacks(legalize, tmp_path) -> None:
    graph = _write(tmp_path / "short.onnx", NORM, ARRAYS)
    proto = onnx.load(graph)
    proto.graph.initializer[1].dims[:] = [8, 80]
    del proto.graph.initializer[0].dims[:]
    proto.graph.initializer[0].ClearField("raw_data")
    proto.graph.initializer[0].dims.append(8)
    proto.graph.initializer[0].float_data.extend([1.0] * 7)
    onnx.save(proto, graph)
    assert _message(legalize, graph) == (
        "error: graph short.onnx: initializer 'gain' says the shape [8], 8 numbers, and holds 7 numbers; "
        "initializer 'w' says the shape [8,80], 2560 bytes, and holds 256 bytes; "
        "its file is damaged: export it again\n"
    )


def test_a_constant_that_is_short(legalize, tmp_path) -> None:
    """In a node, and in a branch, as well as among the initializers."""
    graph = _write(
        tmp_path / "short.onnx",
        """<ir_version: 10, opset_import: ["": 18]> g (bool c, float[4] x) => (float[4] y) {
        k = Constant<value = float[4] {1, 2, 3, 4}>()  z = Add(x, k)
        y = If (c) <then_branch = t () => (float[4] a) <float[4] w = {1, 2, 3, 4}> { a = Add(z, w) },
                    else_branch = e () => (float[4] b) { b = Relu(z) }> }""",
    )
    proto = onnx.load(graph)
    constant = proto.graph.node[0].attribute[0].t
    constant.CopyFrom(onnx.numpy_helper.from_array(np.ones(3, np.float32)))
    constant.dims[:] = [4]
    branch = next(each.g for each in proto.graph.node[2].attribute if each.name == "then_branch")
    del branch.initializer[0].float_data[-1:]
    onnx.save(proto, graph)
    assert _message(legalize, graph) == (
        "error: graph short.onnx: constant 'k' says the shape [4], 16 bytes, and holds 12 bytes; "
        "initializer 'w' says the shape [4], 4 numbers, and holds 3 numbers; "
        "its file is damaged: export it again\n"
    )


def test_external_data_that_is_cut(legalize, tmp_path) -> None:
    graph = _write(tmp_path / "outside.onnx", NORM, ARRAYS)
    onnx.save(onnx.load(graph), graph, save_as_external_data=True, location="weights.bin", size_threshold=100)
    assert legalize(graph)[0] == 0
    (tmp_path / "out" / "legal.onnx").unlink()
    (tmp_path / "weights.bin").write_bytes(bytes(100))
    assert "initializer 'w' says the shape [8,8], 256 bytes, and 'weights.bin' holds 100 bytes of it" in _message(
        legalize, graph
    )


def test_an_opset_of_the_future(legalize, tmp_path) -> None:
    graph = _write(tmp_path / "new.onnx", NORM.replace("18", "25"), ARRAYS)
    assert _message(legalize, graph) == (
        "error: graph new.onnx: its opset is 25; export it with opset_version = 24 or lower\n"
    )


def test_an_unknown_jetpack(legalize, tmp_path) -> None:
    graph = _write(tmp_path / "norm.onnx", NORM, ARRAYS)
    assert "there is no 'jp9.9' of jetson-nano" in _message(legalize, graph, target="jetson-nano@jp9.9")


def test_a_path_that_cannot_be_written(tmp_path, capsys) -> None:
    """Whatever keeps it: no such device, a file where a folder should be, a folder where the file should be."""
    graph = _write(tmp_path / "norm.onnx", NORM, ARRAYS)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inner").write_bytes(b"")
    for out, reason in (
        (Path("/proc/x/out.onnx"), "No such file or directory"),
        (graph / "out.onnx", "File exists"),
        (tmp_path / "folder", "Is a directory"),
    ):
        code = main(["legalize", str(graph), "--target", "cpu", "-o", str(out)])
        assert (code, capsys.readouterr().err) == (
            2,
            f"error: graph {out}: cannot be written ({reason}); "
            "give a path in a folder that you may write to, with room for the graph\n",
        )


def test_integers_that_select_rows_are_drawn_from_all_of_them(legalize, tmp_path) -> None:
    """What tells row 1 from row 7 would go unseen with ids of 0 and 1 alone; it is said which were drawn."""
    text = """<ir_version: 10, opset_import: ["": 18]> g (int64[1,5] ids, int64[2] n) => (float[1,5,4] y, float[2] z)
    { y = Gather(t, ids) z = Cast<to = 1>(n) }"""
    graph = _write(tmp_path / "ids.onnx", text, {"t": RANDOM.standard_normal((23, 4)).astype(np.float32)})
    code, out, _ = legalize(graph)
    assert code == 0 and out.rstrip().endswith("integers ids from 0 to 22, n from 0 to 7")
    code, out, _ = legalize(graph, "--json")
    assert json.loads(out)["drawn_below"] == {"ids": 23, "n": 8}
