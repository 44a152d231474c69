"""Several graphs, one file of weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from coformer_passes.graph_files import save_graph
from coformer_passes.one_weights_file import LINE, PAGE, WeightsFile

TEXT = (
    "g (float[{rows},40] x) => (float[{rows},40] y) {{ h = MatMul(x, w) s = Add(h, b) t = MatMul(s, {second}) "
    "y = Add(t, c) }}"
)
RANDOM = np.random.default_rng(0)
W, OTHER = (RANDOM.standard_normal((40, 40)).astype(np.float32) for _ in range(2))
B, C = RANDOM.standard_normal(40).astype(np.float32), RANDOM.standard_normal((1, 40)).astype(np.float32)


@pytest.fixture
def folder(parse, tmp_path: Path) -> Path:
    with WeightsFile(tmp_path / "all.data") as weights:
        for rows, second in ((1, "w"), (2, "other"), (3, "copy")):
            given = {"w": W, "other": OTHER, "copy": W.copy(), "b": B, "c": C}
            used = {name: given[name] for name in {"w", second, "b", "c"}}
            model = parse(TEXT.format(rows=rows, second=second), used)
            weights.take(model)
            save_graph(model, tmp_path / f"{rows}.onnx")
    return tmp_path


def test_equal_tensors_are_there_once(folder: Path) -> None:
    assert (folder / "all.data").stat().st_size <= 2 * (W.nbytes + PAGE)
    assert all((folder / f"{rows}.onnx").stat().st_size < 2000 for rows in (1, 2, 3))
    assert sorted(path.name for path in folder.iterdir()) == ["1.onnx", "2.onnx", "3.onnx", "all.data"]
    places = {}
    for rows in (1, 2, 3):
        for tensor in onnx.load(folder / f"{rows}.onnx", load_external_data=False).graph.initializer:
            entries = {each.key: each.value for each in tensor.external_data}
            if entries:
                assert entries["location"] == "all.data" and int(entries["offset"]) % PAGE == 0
                places[rows, tensor.name] = entries["offset"]
    assert places[1, "w"] == places[2, "w"] == places[3, "w"] == places[3, "copy"] != places[2, "other"]


@pytest.mark.parametrize(("rows", "second"), [(1, W), (2, OTHER), (3, W)])
def test_the_graphs_compute_what_they_did(folder: Path, rows: int, second: np.ndarray) -> None:
    onnx.checker.check_model(str(folder / f"{rows}.onnx"), full_check=True)
    session = onnxruntime.InferenceSession(str(folder / f"{rows}.onnx"), providers=["CPUExecutionProvider"])
    x = RANDOM.standard_normal((rows, 40)).astype(np.float32)
    np.testing.assert_allclose(session.run(None, {"x": x})[0], (x @ W + B) @ second + C, rtol=1e-4, atol=1e-3)


def test_smaller_tensors_begin_a_line(parse, tmp_path: Path) -> None:
    first, second = (RANDOM.standard_normal((20, 20)).astype(np.float32) for _ in range(2))
    with WeightsFile(tmp_path / "all.data") as weights:
        model = parse(
            "g (float[1,20] x) => (float[1,20] y) { h = MatMul(x, v) y = MatMul(h, w) }", {"v": first, "w": second}
        )
        weights.take(model)
        save_graph(model, tmp_path / "a.onnx")
    assert (tmp_path / "all.data").stat().st_size == first.nbytes + second.nbytes and first.nbytes % LINE == 0


def test_without_large_tensors_there_is_no_file(parse, tmp_path: Path) -> None:
    with WeightsFile(tmp_path / "all.data") as weights:
        weights.take(parse("g (float[2] x) => (float[2] y) { y = Add(x, b) }", {"b": B[:2]}))
    assert not list(tmp_path.iterdir())


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="full"), WeightsFile(tmp_path / "all.data"):
        raise OSError("full")
    assert not list(tmp_path.iterdir())
