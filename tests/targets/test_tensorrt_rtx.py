"""Tests of coformer_targets.tensorrt_rtx, on the real library; plans are made, not run: that needs a card."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from coformer_runtime.errors import CheckFailed, CoformerError
from coformer_targets import load_target, with_precision
from coformer_targets.tensorrt_rtx import ARCHITECTURES, parser_problems, plan_from_onnx, rtx_is_installed, write_plans

needs_rtx = pytest.mark.skipif(
    not rtx_is_installed(), reason="tensorrt_rtx is not installed (pip install tensorrt-rtx-cu12)"
)


@pytest.fixture
def graph(tmp_path: Path) -> Callable[..., Path]:
    def write(body: str = "g (float[1,4] x) => (float[1,4] y) { y = Relu(x) }", **names: str) -> Path:
        model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20, "own": 1]> {body}')
        for node in model.graph.node:
            node.name = names.get(node.op_type, node.op_type)
        path = tmp_path / "member.onnx"
        onnx.save(model, path)
        return path

    return write


@needs_rtx
def test_a_graph_that_it_takes(graph: Callable[..., Path]) -> None:
    assert parser_problems(graph()) == ()


@needs_rtx
def test_every_problem_is_named(graph: Callable[..., Path]) -> None:
    body = "g (float[1,4] x) => (float[1,4] y) { a = own.Secret(x) b = Relu(a) y = own.Hidden(b) }"
    problems = parser_problems(graph(body, Secret="blocks.0.secret", Hidden="blocks.1.hidden"))
    assert [(each.node, each.operator) for each in problems] == [
        ("blocks.0.secret", "Secret"),
        ("blocks.1.hidden", "Hidden"),
    ]
    with pytest.raises(CheckFailed) as caught:
        plan_from_onnx(graph(body, Secret="blocks.0.secret"), 86)
    assert "does not take it: node 'blocks.0.secret' (Secret): " in caught.value.what
    assert (caught.value.where, caught.value.mend) == ("graph member.onnx", "legalise it for an RTX target")


@needs_rtx
def test_types_are_checked(graph: Callable[..., Path]) -> None:
    body = "g (float[2,2] x, float16[2,2] h) => (float[2,2] y) { y = MatMul(x, h) }"
    (problem, *_) = parser_problems(graph(body, MatMul="attention.scores"))
    assert problem.node == "attention.scores"


@needs_rtx
def test_plans_for_all_architectures(graph: Callable[..., Path], tmp_path: Path) -> None:
    paths = write_plans(graph(), tmp_path)
    assert list(paths) == list(ARCHITECTURES) == [86, 89, 120]
    assert [path.name for path in paths.values()] == ["member.sm86.plan", "member.sm89.plan", "member.sm120.plan"]
    contents = [path.read_bytes() for path in paths.values()]
    assert all(len(content) > 1000 for content in contents) and len(set(contents)) == 3


@needs_rtx
def test_what_is_refused(graph: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(CoformerError, match=r"does not build for SM 8\.7; choose one of .*8\.6, 8\.9"):
        plan_from_onnx(graph(), 87)
    with pytest.raises(CoformerError, match=r"graph none\.onnx: cannot be read \(No such file"):
        parser_problems(tmp_path / "none.onnx")
    with pytest.raises(CoformerError, match="the plan cannot be written"):
        write_plans(graph(), tmp_path / "none", (86,))


@needs_rtx
@pytest.mark.slow
def test_a_collection_within_the_logger_does_not_wait_for_itself(graph: Callable[..., Path]) -> None:
    """A builder in a cycle of references, as failures leave them behind, and a logger that makes many objects."""
    script = """
import gc, sys
from pathlib import Path
import tensorrt_rtx
from coformer_targets import tensorrt_rtx as ours

class Busy(ours.Log):
    def __init__(self, trt):
        super().__init__(trt)
        type(self.logger).log = lambda logger, severity, text: len([[] for _ in range(10_000)])

ours.Log, path = Busy, Path(sys.argv[1])
gc.collect()
gc.disable()
cycle = [tensorrt_rtx.Builder(Busy(tensorrt_rtx).logger)]
cycle.append(cycle)
del cycle
gc.enable()
assert ours.parser_problems(path) == () and gc.isenabled()
print("came back")
"""
    done = subprocess.run([sys.executable, "-c", script, str(graph())], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout == "came back\n", done.stderr


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    assert not rtx_is_installed()
    with pytest.raises(CoformerError) as caught:
        parser_problems(Path("member.onnx"))
    assert caught.value.mend == "install it: pip install 'coformer-compiler[rtx]'"
    assert caught.value.where == "graph member.onnx"


def test_rtx_targets_are_among_the_architectures() -> None:
    assert {load_target(f"rtx-{name}").sm for name in ("ampere", "ada", "blackwell")} == set(ARCHITECTURES)


@needs_rtx
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_members_of_deit_small(tmp_path: Path, precision: str) -> None:
    """Three members of DeiT-S of random weights, as the compiler exports them: all parse, all get their three plans."""
    torch = pytest.importorskip("torch")
    import onnx_ir as ir

    from coformer_compiler.frontends import ModelSource, import_model
    from coformer_compiler.model.transformer import Selection
    from coformer_passes.runner import legalise

    target = with_precision(load_target("rtx-ampere"), precision)
    torch.manual_seed(0)
    teacher = import_model(ModelSource("timm:deit_small_patch16_224", "random"))
    heads = {block.layer: block.branch.heads for block in teacher.spec.residuals if block.kind == "attention"}
    neurons = {block.layer: block.branch.neurons for block in teacher.spec.residuals if block.kind == "mlp"}
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 224, 224), dtype=np.uint8)
    for n in range(3):
        selection = Selection(
            (tuple(range(n, teacher.spec.embed, 3)),),
            {layer: tuple(range(n, count, 3)) for layer, count in heads.items()},
            {layer: tuple(range(n, count, 3)) for layer, count in neurons.items()},
        )
        member = teacher.take(selection).eval()
        path = tmp_path / f"member-{n}.onnx"
        ir.save(legalise(member.lower("member"), target, {"pixels": pixels}), path)
        assert parser_problems(path) == ()
        plans = write_plans(path, tmp_path)
        assert all(plan.stat().st_size > path.stat().st_size // 2 for plan in plans.values())
