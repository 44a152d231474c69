"""torch.onnx.export's own graphs of timm's models become legal for a Jetson Nano."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from coformer_compiler.cli import main
from coformer_compiler.torchvision_operators import ensure_torchvision_operators
from coformer_passes.check_operators import violations
from coformer_passes.graph_files import read_graph
from coformer_targets import load_target
from tests.passes.old_onnx import old_outputs

pytestmark = pytest.mark.slow
MODELS = ("deit_tiny_patch16_224", "swin_tiny_patch4_window7_224")


@pytest.fixture(scope="module", params=MODELS)
def export(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that torch.onnx.export writes, with random weights, opset 18."""
    pytest.importorskip("onnxscript")
    ensure_torchvision_operators()
    import timm
    import torch

    path = tmp_path_factory.mktemp("export") / f"{request.param}.onnx"
    torch.manual_seed(0)
    model = timm.create_model(request.param, pretrained=False).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about its own future
        program = torch.onnx.export(model, (torch.randn(1, 3, 224, 224),), dynamo=True, opset_version=18, verbose=False)
    program.save(str(path))
    return path


@pytest.mark.interpreters
def test_an_export_is_legal_for_a_jetson_nano_and_equal(export, tmp_path, capsys) -> None:
    legal = tmp_path / "legal.onnx"
    assert main(["legalize", str(export), "--target", "jetson-nano", "-o", str(legal)]) == 0, capsys.readouterr().err
    model = onnx.load(legal)
    assert (model.opset_import[0].version, model.ir_version) == (13, 7)
    assert violations(read_graph(legal), load_target("jetson-nano")) == []

    name = model.graph.input[0].name
    x = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(export), providers=["CPUExecutionProvider"])
    expected = session.run(None, {name: x})[0]
    (found,) = old_outputs(legal, **{name: x}).values()
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("target", ["jetson-orin-nano@jp5.1", "jetson-orin-nano@jp7.2", "rtx-blackwell", "cpu"])
def test_an_export_is_legal_for_others(export, tmp_path, capsys, target) -> None:
    out = str(tmp_path / "legal.onnx")
    assert main(["legalize", str(export), "--target", target, "-o", out]) == 0, capsys.readouterr().err


def test_what_a_tracer_leaves_of_masks_and_positions_folds_away(tmp_path, capsys) -> None:
    """Trilu, Range, Where on booleans, Xor, Mod, Expand and sequences, in an export that was not optimised."""
    pytest.importorskip("onnxscript")
    import torch

    class Windowed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.positions = torch.nn.Embedding(16, 8)
            self.linear = torch.nn.Linear(8, 24)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            batch, tokens, embed = x.shape
            order = torch.arange(tokens)
            x = x + self.positions(torch.remainder(order * 3, 16))[None].expand(batch, tokens, embed)
            query, key, value = self.linear(x).chunk(3, -1)
            causal = torch.tril(torch.ones(tokens, tokens, dtype=torch.bool))
            near = (order[:, None] - order[None, :]).abs() < 4
            mask = torch.where(causal, near, torch.logical_xor(causal, near))
            scores = (query @ key.transpose(-1, -2) * embed**-0.5).masked_fill(~mask, float("-inf"))
            return torch.where(mask.any(-1)[:, None], scores.softmax(-1) @ value, torch.zeros_like(value))

    graph = tmp_path / "windowed.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            Windowed().eval(), (torch.randn(1, 6, 8),), dynamo=True, opset_version=18, optimize=False, verbose=False
        )
    program.save(str(graph))
    left = {node.op_type for node in onnx.load(graph).graph.node}
    assert {"Trilu", "Range", "Where", "Mod", "Expand", "Xor", "SplitToSequence"} <= left
    for target in ("jetson-nano", "jetson-xavier-nx", "cpu"):
        legal = tmp_path / f"{target}.onnx"
        assert main(["legalize", str(graph), "--target", target, "-o", str(legal)]) == 0, capsys.readouterr().err
    found = [node.op_type for node in onnx.load(tmp_path / "jetson-nano.onnx").graph.node]
    assert sorted(found) == sorted(
        ["Add", "Add", "MatMul", "MatMul", "MatMul", "Softmax", "Split", "Transpose", "Where", "Where"]
    )
