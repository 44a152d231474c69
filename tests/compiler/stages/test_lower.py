"""Graph files against torch: what passes, and that what differs is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from coformer_compiler.config.sections import ProfilesSection
from coformer_compiler.stages.lower import (
    TOLERANCE,
    _write_member,
    aggregator_file,
    inline_bytes_of,
    legal_graph,
    run_graph,
    tolerance_of,
    verify_graph,
)
from coformer_passes.graph_files import save_graph
from coformer_runtime.errors import CheckFailed
from coformer_targets import load_target, with_precision
from tests.compiler.tiny import random_model, tiny_decoder


@pytest.fixture
def bundle(out: Path) -> Path:
    return out / "bundles" / "hall"


@pytest.fixture
def golden(bundle: Path) -> tuple[dict[str, np.ndarray], np.ndarray]:
    return {"pixels": np.load(bundle / "golden" / "input.npy")}, np.load(bundle / "golden" / "output.npy")


def test_a_graph_gives_what_torch_gave(bundle: Path, golden) -> None:
    inputs, wanted = golden
    np.testing.assert_allclose(run_graph(bundle / "member.onnx", inputs, "features"), wanted, rtol=TOLERANCE)
    verify_graph(bundle / "member.onnx", inputs, "features", wanted)


def told(bundle: Path, inputs: dict[str, np.ndarray], output: str, wanted: np.ndarray) -> str:
    with pytest.raises(CheckFailed) as caught:
        verify_graph(bundle / "member.onnx", inputs, output, wanted)
    assert caught.value.where == f"graph {bundle / 'member.onnx'}"
    return caught.value.what


def test_the_first_case_that_differs_is_named(bundle: Path, golden) -> None:
    inputs, wanted = golden
    wanted[3, 2] += 0.01 * (1 + abs(wanted[3, 2]))
    assert told(bundle, inputs, "features", wanted) in (
        "'features' differs from torch by 1.0e-02 on golden case 3",
        "'features' differs from torch by 9.9e-03 on golden case 3",
    )


def test_not_a_number_is_a_difference(bundle: Path, golden) -> None:
    inputs, wanted = golden
    wanted[0, 0] = np.nan
    assert told(bundle, inputs, "features", wanted) == "'features' differs from torch by nan on golden case 0"


def test_another_shape_is_a_difference(bundle: Path, golden) -> None:
    inputs, wanted = golden
    assert told(bundle, inputs, "features", wanted[:, :5]) == "'features' is [8, 8], torch gives [8, 5]"


@pytest.mark.parametrize(("inputs", "output"), [({"image": np.zeros((1, 1, 8, 8))}, "features"), (None, "logits")])
def test_a_graph_that_does_not_take_or_give_this(bundle: Path, golden, inputs: object, output: str) -> None:
    given = golden[0] if inputs is None else inputs
    assert told(bundle, given, output, golden[1]).startswith("ONNX Runtime does not run it (")


def test_aggregators_are_named_after_their_subset(bundle: Path) -> None:
    names = {path.relative_to(bundle).as_posix() for path in (bundle / "aggregators").iterdir()}
    subsets = [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]
    assert names == {aggregator_file(subset) for subset in subsets}


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_weights_beside_the_graph_are_found_from_any_folder(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in members of GPT-2 XL's size: norms of 72 numbers are beyond what ONNX keeps in the graph."""
    monkeypatch.chdir("/")
    member, ids = random_model(tiny_decoder(embed=72)), np.arange(18, dtype=np.int32).reshape(2, 9)
    target = with_precision(load_target("jetson-orin-nano"), precision)
    graph, path = legal_graph(member, target, ids), tmp_path / "member.onnx"
    save_graph(graph, tmp_path / "whole.onnx")
    save_graph(graph, path, inline_bytes=0)
    held = ir.load(path).graph.initializers["layers.0.attention.norm.weight"].const_value
    assert isinstance(held, ir.ExternalTensor)
    found, wanted = (run_graph(each, {"ids": ids}, "features", precision) for each in (path, tmp_path / "whole.onnx"))
    np.testing.assert_array_equal(found, wanted)
    with torch.no_grad():
        features = member.sent(torch.from_numpy(ids)).numpy()
    verify_graph(path, {"ids": ids}, "features", features, precision, tolerance_of(precision, features))


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_member_whose_weights_lie_beside_its_graph(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that the stage does with it: lowered, proved, its decoders written, and the recipe of its board."""
    monkeypatch.chdir("/")
    monkeypatch.setattr("coformer_compiler.stages.lower.INLINE_BYTES", 0)
    member, ids = random_model(tiny_decoder(embed=72)), torch.arange(18, dtype=torch.int32).reshape(2, 9)
    target = with_precision(load_target("jetson-orin-nano"), precision)
    with torch.no_grad():
        features = member.sent(ids)
    _write_member(tmp_path, member, target, ids, features, ProfilesSection())
    written = {each.relative_to(tmp_path).as_posix() for each in tmp_path.rglob("*") if each.is_file()}
    assert {"member.onnx", "member.onnx.data", "decoder/step.onnx", "recipe.json"} <= written


def test_a_small_boards_parser_is_not_given_large_weights_within_the_graph() -> None:
    assert inline_bytes_of(load_target("jetson-nano")) == 256_000_000
    assert inline_bytes_of(load_target("tensorrt-h100")) == 1_500_000_000
