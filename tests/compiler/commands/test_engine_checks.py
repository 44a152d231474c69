"""What `coformerc validate` checks of engines for boards: by the old onnx, NVIDIA's tools and a stand-in for a GPU."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import onnx
import pytest

from coformer_compiler.commands.engine_checks import engine_checks
from coformer_runtime.bundle import open_bundle
from coformer_runtime.errors import CheckFailed, CoformerError
from coformer_targets.tensorrt_rtx import rtx_is_installed
from tests.compiler.commands.test_validate import make_match, validate
from tests.end_to_end.tiny import built, coformerc
from tests.passes.old_onnx import old_python
from tests.runtime.boards import NANO, Board, environment, make_site

NEEDS_RTX = pytest.mark.skipif(not rtx_is_installed(), reason="tensorrt_rtx is not installed")


@pytest.fixture(scope="module")
def boards() -> Path:
    return built("mixed")


@pytest.fixture
def copied_boards(boards: Path, tmp_path: Path) -> Path:
    import shutil

    shutil.copytree(boards, tmp_path / "out")
    return tmp_path / "out"


def _edit_graph(out: Path, change) -> None:
    path = out / "bundles" / "desk" / "member.onnx"
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)
    make_match(out, "desk")


@pytest.mark.interpreters
@pytest.mark.slow
def test_the_old_onnx_checks_the_graphs_of_old_boards(copied_boards: Path, tmp_path: Path) -> None:
    python = old_python()
    outcome = coformerc("validate", copied_boards, "--old-python", python, "--junit", tmp_path / "junit.xml")
    assert outcome.code == 0
    assert any(line.split() == ["ok", "desk", "checker", "of", "onnx", "1.8.1"] for line in outcome.out.splitlines())
    names = [case.get("name") for case in ET.parse(tmp_path / "junit.xml").getroot() if case.get("classname") == "desk"]
    assert "checker of onnx 1.8.1" in names and "NVIDIA's parser" in names

    def of_the_future(model: onnx.ModelProto) -> None:
        model.graph.node.append(onnx.helper.make_node("Trilu", ["pixels"], ["triangle"]))

    _edit_graph(copied_boards, of_the_future)
    bundle = open_bundle(str(copied_boards / "bundles" / "desk"))
    (check,) = (check for name, check in engine_checks(bundle, Path(python)) if name.startswith("checker of onnx"))
    with pytest.raises(CheckFailed, match=r"it refuses the graph: .*Trilu"):
        check()


def test_a_python_that_is_named_must_have_the_old_onnx(boards: Path) -> None:
    bundle = open_bundle(str(boards / "bundles" / "desk"))
    for named, what in ((Path("/nowhere/python"), "does not run"), (Path(sys.executable), "has onnx ")):
        with pytest.raises(CoformerError) as caught:
            list(engine_checks(bundle, named))
        assert caught.value.what.startswith(what)
        assert caught.value.where == f"--old-python {named}"
        assert caught.value.mend == "name a Python 3.6 with onnx 1.8.1 (pip install onnx==1.8.1)"


def test_an_operator_that_the_board_does_not_know(copied_boards: Path) -> None:
    def add(model: onnx.ModelProto) -> None:
        model.graph.node.append(onnx.helper.make_node("IsInf", ["features"], ["infinite"], name="odd"))

    _edit_graph(copied_boards, add)
    _, checks = validate(copied_boards)
    told = checks["desk", "operators of the target"]["failure"] or ""
    assert "1 node is not legal in TensorRT 8.2.1 (jetson-nano): 'odd' (IsInf): no importer" in told


def test_a_graph_without_an_opset_is_refused(copied_boards: Path) -> None:
    def forget(model: onnx.ModelProto) -> None:
        del model.opset_import[:]
        model.opset_import.append(onnx.helper.make_opsetid("com.example", 1))

    _edit_graph(copied_boards, forget)
    bundle = open_bundle(str(copied_boards / "bundles" / "desk"))
    check = dict(engine_checks(bundle))["checker of onnx 1.8.1"]
    with pytest.raises(CheckFailed) as caught:
        check()
    assert caught.value.what == (
        "it imports no version of ONNX's own operators (opset_import has no entry for the domain '')"
    )
    assert caught.value.where == "graph member.onnx"
    assert caught.value.mend == "build again, or export the graph with that entry"


@NEEDS_RTX
def test_nvidias_parser_and_builder_take_every_graph(boards: Path, copied_boards: Path) -> None:
    _, checks = validate(boards)
    for name in ("NVIDIA's parser", "NVIDIA's builder, ahead of time"):
        assert checks["desk", name] == {"device": "desk", "name": name, "failure": None, "skipped": None}

    def break_types(model: onnx.ModelProto) -> None:
        model.graph.node[0].input[0] = "nothing"

    _edit_graph(copied_boards, break_types)
    bundle = open_bundle(str(copied_boards / "bundles" / "desk"))
    (check,) = (check for name, check in engine_checks(bundle) if name == "NVIDIA's parser")
    with pytest.raises(CheckFailed, match=r"it refuses \d+ nodes: node "):
        check()


@pytest.mark.parametrize(
    ("board", "behaviour", "state"),
    [
        (NANO, {}, "ok"),
        (NANO._replace(sm=62, gpu="NVIDIA Tegra X2"), {}, "the graphs were made for SM 5.3, the GPU"),
        (NANO, {"build": "fail"}, "TensorRT 8.2.1.8 cannot build it"),
    ],
    ids=["the board", "another board", "a failing build"],
)
def test_with_a_gpu_and_tensorrt_the_engine_is_built_and_run(
    boards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    board: Board,
    behaviour: dict[str, str],
    state: str,
) -> None:
    site = make_site(tmp_path / "site", board, behaviour)
    monkeypatch.setenv("PYTHONPATH", environment(site)["PYTHONPATH"])  # of the process that builds
    monkeypatch.setattr(sys, "path", [*site, *sys.path])
    bundle = open_bundle(str(boards / "bundles" / "desk"))
    try:
        check = dict(engine_checks(bundle))["engine on golden vectors"]
        if state == "ok":
            check()
        elif behaviour:
            with pytest.raises(CheckFailed, match=state):
                check()
        else:
            assert state in check
    finally:
        for name in ("tensorrt", "fake_tensorrt", "pycuda", "pycuda.driver"):
            sys.modules.pop(name, None)
    assert not list((boards / "bundles").rglob("*.plan"))
