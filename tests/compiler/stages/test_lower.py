"""Graph files against torch: what passes, and that what differs is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from coformer_compiler.stages.lower import TOLERANCE, aggregator_file, inline_bytes_of, run_graph, verify_graph
from coformer_runtime.errors import CheckFailed
from coformer_targets import load_target


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


def test_a_small_boards_parser_is_not_given_large_weights_within_the_graph() -> None:
    assert inline_bytes_of(load_target("jetson-nano")) == 256_000_000
    assert inline_bytes_of(load_target("tensorrt-h100")) == 1_500_000_000
