"""torchvision's operators: registered only where they are missing, and right."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coformer_compiler.torchvision_operators import (
    OPERATORS,
    ensure_torchvision_operators,
    non_maximum_suppression,
)


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_timm_imports_after_it_and_a_second_call_does_nothing() -> None:
    code = """
from coformer_compiler.torchvision_operators import ensure_torchvision_operators
registered = ensure_torchvision_operators()
assert ensure_torchvision_operators() == ()
import timm, torch, torchvision
assert ensure_torchvision_operators() == ()
boxes, scores = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 1.9], [5, 5, 6, 6]]), torch.tensor([0.5, 0.9, 0.1])
assert torch.ops.torchvision.nms(boxes, scores, 0.5).tolist() == [1, 2]
print(registered, torchvision.extension._has_ops())
"""
    assert run_python(code) in ("('nms', 'qnms') False", "() True")


@pytest.mark.slow
def test_registers_nothing_where_the_operators_are_there() -> None:
    code = """
import torch
native = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    native.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    native.impl(name, lambda dets, scores, iou_threshold: torch.tensor([42]), "CPU")
from coformer_compiler.torchvision_operators import ensure_torchvision_operators
print(ensure_torchvision_operators(), torch.ops.torchvision.nms(torch.zeros(1, 4), torch.zeros(1), 0.5).tolist())
"""
    if has_native_operators():
        pytest.skip("torchvision's own operators load here; the test above has seen that they stay")
    assert run_python(code) == "() [42]"


@pytest.mark.slow
def test_agrees_with_the_native_kernel() -> None:
    if not has_native_operators():
        pytest.skip("torchvision's native library does not load under this torch")
    code = """
import torch, torchvision
from coformer_compiler.torchvision_operators import non_maximum_suppression
random = torch.Generator().manual_seed(0)
for count in range(1, 200):
    boxes = torch.rand(count, 4, generator=random)
    boxes[:, 2:] = boxes[:, :2] + boxes[:, 2:] / 2
    scores = torch.randint(0, 30, (count,), generator=random) / 30
    for threshold in (0.0, 0.3, 0.5, 0.9):
        native = torch.ops.torchvision.nms(boxes, scores, threshold)
        assert torch.equal(non_maximum_suppression(boxes, scores, threshold), native)
print("equal")
"""
    assert run_python(code) == "equal"


def test_is_silent_without_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("importlib.import_module", lambda name: pytest.fail(f"imports {name}"))
    assert ensure_torchvision_operators() == ()


def test_passes_other_failures_of_torchvision_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise RuntimeError(f"{name} is broken in another way")

    monkeypatch.setattr("importlib.import_module", fail)
    with pytest.raises(RuntimeError, match="torchvision is broken in another way"):
        ensure_torchvision_operators()


def has_native_operators() -> bool:
    code = """
from coformer_compiler.torchvision_operators import ensure_torchvision_operators
ensure_torchvision_operators()
import torchvision.extension
print(torchvision.extension._has_ops())
"""
    return run_python(code) == "True"


def suppress_one_by_one(boxes: list[list[float]], scores: list[float], threshold: float) -> list[int]:
    """The definition, with exact arithmetic on small whole numbers."""
    remaining = sorted(range(len(boxes)), key=lambda i: -scores[i])
    kept = []
    while remaining:
        best, *remaining = remaining
        kept.append(best)
        remaining = [i for i in remaining if not overlap(boxes[best], boxes[i]) > threshold]
    return kept


def overlap(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if union else 0.0


corner, side = st.integers(0, 12), st.integers(0, 8)
box = st.builds(lambda x, y, w, h: [float(x), float(y), float(x + w), float(y + h)], corner, corner, side, side)


@given(
    boxes=st.lists(box, max_size=24),
    data=st.data(),
    threshold=st.sampled_from([0.0, 0.25, 0.3, 0.5, 0.7, 1.0]),
    dtype=st.sampled_from([torch.float64, torch.int32]),
)
def test_keeps_what_the_definition_keeps(
    boxes: list[list[float]], data: st.DataObject, threshold: float, dtype: torch.dtype
) -> None:
    # Few distinct scores: equal ones keep the order given.
    scores = data.draw(st.lists(st.sampled_from([0.1, 0.5, 0.9]), min_size=len(boxes), max_size=len(boxes)))
    kept = non_maximum_suppression(
        torch.tensor(boxes, dtype=dtype).reshape(-1, 4), torch.tensor(scores, dtype=torch.float64), threshold
    )
    assert kept.dtype == torch.int64
    if dtype == torch.float64:
        assert kept.tolist() == suppress_one_by_one(boxes, scores, threshold)
    else:  # integers are compared in float32, in which thresholds like 0.3 are not those of Python
        exact = non_maximum_suppression(
            torch.tensor(boxes).reshape(-1, 4).float(), torch.tensor(scores, dtype=torch.float64), threshold
        )
        assert kept.tolist() == exact.tolist()


@pytest.mark.parametrize(
    ("boxes", "scores", "message"),
    [
        (torch.zeros(3, 5), torch.zeros(3), r"boxes should have shape \(boxes, 4\), got \(3, 5\)"),
        (torch.zeros(4), torch.zeros(4), r"boxes should have shape \(boxes, 4\), got \(4,\)"),
        (torch.zeros(3, 4), torch.zeros(2), r"scores should have shape \(3,\), got \(2,\)"),
    ],
)
def test_refuses_wrong_shapes(boxes: torch.Tensor, scores: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        non_maximum_suppression(boxes, scores, 0.5)


def test_names_what_torchvision_asks_for_at_import() -> None:
    assert OPERATORS == ("nms", "qnms")
