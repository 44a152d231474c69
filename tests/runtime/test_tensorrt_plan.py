"""How plans are built: precisions, weak and strong types; on the stand-in, and by its own library where it is there."""

from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from coformer_runtime.errors import CoformerError
from coformer_runtime.tensorrt.library import Log
from coformer_runtime.tensorrt.plan import plan_from_onnx
from coformer_runtime.tensorrt.recipe import Recipe
from tests.runtime import bundles
from tests.runtime.boards import FUTURE, NANO, ORIN, THOR, Board, plan_header
from tests.runtime.fakes.fake_tensorrt import module

RECIPE = Recipe("8.2.1", 53, "member.onnx", "float32", (), (), 64, 1, "timing.cache", False)


@pytest.fixture
def float32_graph(tmp_path: Path) -> str:
    path = tmp_path / "member.onnx"
    path.write_bytes(bundles.member_graph(1, element=TensorProto.FLOAT))
    return str(path)


@pytest.fixture
def mixed_graph(tmp_path: Path) -> str:
    """A graph that says its types: a float16 product between float32 islands."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1]),
        helper.make_node("Sub", ["x", "mean"], ["centred"]),
        helper.make_node("Cast", ["centred"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["half", "weight"], ["product"]),
        helper.make_node("Cast", ["product"], ["y"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "mixed",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(np.ones((4, 2), np.float16), "weight")],
    )
    path = tmp_path / "mixed.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7), path)
    return str(path)


def build(board: Board, graph: str, tmp_path: Path, **changes: Any) -> Dict[str, Any]:
    trt = module(board.tensorrt, board.gpu, {})
    plan, timing = plan_from_onnx(trt, graph, RECIPE._replace(**changes), b"")
    assert bytes(timing).startswith(board.tensorrt.encode())
    (tmp_path / "a.plan").write_bytes(plan)
    return plan_header(str(tmp_path / "a.plan"))


@pytest.mark.parametrize("board", [NANO, ORIN, THOR, FUTURE], ids=lambda board: board.tensorrt)
def test_float32_means_float32(tmp_path: Path, float32_graph: str, board: Board) -> None:
    header = build(board, float32_graph, tmp_path)
    assert (header["flags"], header["pinned"], header["workspace"]) == ([], 0, 64 << 20)


@pytest.mark.parametrize("board", [NANO, ORIN, THOR], ids=lambda board: board.tensorrt)
def test_float16_by_flag(tmp_path: Path, float32_graph: str, mixed_graph: str, board: Board) -> None:
    single = build(board, float32_graph, tmp_path, precision="float16")  # an aggregator in a bundle of float16
    assert (single["flags"], single["pinned"]) == ([], 0)
    islands = build(board, mixed_graph, tmp_path, precision="float16")
    assert islands["flags"] == ["FP16", "OBEY_PRECISION_CONSTRAINTS"]
    assert islands["pinned"] == 2  # ReduceMean and Sub; the second Cast takes float16


def test_int8_by_flag(tmp_path: Path, float32_graph: str) -> None:
    assert build(ORIN, float32_graph, tmp_path, precision="int8")["flags"] == ["INT8"]


@pytest.mark.parametrize(("board", "bits"), [(ORIN, 2 + 1), (THOR, 2 + 1), (FUTURE, 1)])
def test_strong_types(tmp_path: Path, mixed_graph: str, board: Board, bits: int) -> None:
    header = build(board, mixed_graph, tmp_path, precision="float16", strongly_typed=True)
    assert (header["flags"], header["network_flags"], header["pinned"]) == ([], bits, 0)


@pytest.mark.parametrize(
    ("board", "changes", "what"),
    [
        (NANO, {"strongly_typed": True}, "the recipe asks for a strongly typed network, TensorRT 8.2.1.8 has none"),
        (
            FUTURE,
            {"precision": "float16"},
            "float16 by flags is asked for, TensorRT 11.0.0.114 takes it from the graph's",
        ),
    ],
)
def test_what_a_version_cannot_do(
    tmp_path: Path, float32_graph: str, board: Board, changes: Dict[str, Any], what: str
) -> None:
    with pytest.raises(CoformerError) as caught:
        build(board, float32_graph, tmp_path, **changes)
    assert caught.value.what.startswith(what)
    assert caught.value.where == float32_graph


def test_log_keeps_the_last_errors_or_else_warnings() -> None:
    trt = module("8.2.1.8", "GPU", {})
    log = Log(trt)
    assert log.told() == "it gave no reason"
    levels: List[int] = [3, 2, 2]
    for number, level in enumerate(levels):
        log.logger.log(level, "text {}\n".format(number))
    assert log.told() == "text 1 | text 2"
    for number in range(30):
        log.logger.log(1, "error {}".format(number))
    assert log.told().startswith("error 10 | ") and log.told().endswith("error 29")


def test_real_library_builds_what_the_runtime_asks_for(tmp_path: Path, float32_graph: str, mixed_graph: str) -> None:
    """The same functions, step by step, on tensorrt_rtx, whose interface is TensorRT 11's; without a GPU."""
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed (pip install tensorrt-rtx-cu12)")
    from coformer_runtime.tensorrt.plan import config_from_recipe, network_from_onnx, plan_from_network

    for graph, precision in ((float32_graph, "float32"), (mixed_graph, "float16")):
        log = Log(trt)
        builder = trt.Builder(log.logger)
        network, problems = network_from_onnx(trt, builder, log, graph, True)
        assert problems == [] and network.num_layers > 0
        recipe = RECIPE._replace(precision=precision, strongly_typed=True)
        config = config_from_recipe(trt, builder, network, recipe, graph)
        assert not config.get_flag(trt.BuilderFlag.TF32)
        assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 64 << 20
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM86, 0)
        plan = plan_from_network(trt, builder, network, config, log, graph)
        assert memoryview(plan).nbytes > 1000


def test_real_parser_names_what_it_refuses(tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed (pip install tensorrt-rtx-cu12)")
    from coformer_runtime.tensorrt.plan import network_from_onnx

    text = '<ir_version: 7, opset_import: ["": 13, "own": 1]> g (float[1,4] x) => (float[1,4] y) { y = own.Secret(x) }'
    model = onnx.parser.parse_model(text)
    model.graph.node[0].name = "blocks.0"
    onnx.save(model, tmp_path / "own.onnx")
    log = Log(trt)
    builder = trt.Builder(log.logger)
    _, problems = network_from_onnx(trt, builder, log, str(tmp_path / "own.onnx"), True)
    assert [(problem.node, problem.operator) for problem in problems] == [("blocks.0", "Secret")]
    (tmp_path / "junk.onnx").write_bytes(b"no graph")
    _, problems = network_from_onnx(trt, builder, log, str(tmp_path / "junk.onnx"), True)
    assert len(problems) == 1 and problems[0].reason
