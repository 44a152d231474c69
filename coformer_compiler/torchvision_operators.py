"""Gives torchvision the native operators without which it, and so timm, cannot be imported.

torchvision's wheels from PyPI are linked against a CUDA build of torch. Under a CPU-only torch the native library
does not load, and `import torchvision` ends in `RuntimeError: operator torchvision::nms does not exist`, because the
package registers shape functions for `nms` and `qnms` without asking whether the operators are there. Nothing of
ours needs them to be fast; they have to exist, and to be right.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

OPERATORS = ("nms", "qnms")
"""Operators of which torchvision 0.28 registers a shape function at import, whether or not they exist."""


def ensure_torchvision_operators() -> tuple[str, ...]:
    """Makes `import torchvision` work; to be called before timm or torchvision is imported.

    Whether the operators are missing is found out by importing torchvision, because the name of its native library
    changes (`_C` in 0.28, `_C_stable` in 0.29), and an operator that is defined twice ends the process.

    Returns:
        The names of the operators that this call registered: empty when torchvision's own are there, when an earlier
        call has registered them, and when torchvision is not installed.

    Raises:
        RuntimeError: torchvision cannot be imported for another reason.
    """
    if importlib.util.find_spec("torchvision") is None:
        return ()
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if not any(str(error) == f"operator torchvision::{name} does not exist" for name in OPERATORS):
            raise
    else:
        return ()
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # what the failed import has left
    library = _fallback_library()
    for name in OPERATORS:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.impl(name, non_maximum_suppression, "CompositeExplicitAutograd")
    importlib.import_module("torchvision")
    return OPERATORS


def non_maximum_suppression(dets: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Keeps the boxes that overlap no better box by more than `iou_threshold`.

    The rule and the order are those of torchvision's CPU kernel: boxes are visited by falling score, equal scores in
    the order given; a box goes when its intersection over union with a kept one is greater than the threshold (a box
    without area therefore never goes). Quantised boxes may come as integers: the ratio of areas is free of scale.

    Args:
        dets: boxes (boxes, 4) as x1, y1, x2, y2.
        scores: (boxes,).
        iou_threshold: in 0..1.

    Returns:
        Indices of the kept boxes (kept,), int64, by falling score.

    Raises:
        ValueError: the shapes do not fit.
    """
    import torch

    if dets.ndim != 2 or dets.shape[1] != 4:
        raise ValueError(f"boxes should have shape (boxes, 4), got {tuple(dets.shape)}")
    if scores.shape != dets.shape[:1]:
        raise ValueError(f"scores should have shape ({dets.shape[0]},), got {tuple(scores.shape)}")
    order = torch.sort(scores, stable=True, descending=True).indices
    boxes = dets[order]
    if not boxes.is_floating_point():
        boxes = boxes.to(torch.float32)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    gone = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    kept = []
    for i in range(len(boxes)):
        if gone[i]:
            continue
        kept.append(i)
        low = torch.maximum(boxes[i, :2], boxes[i + 1 :, :2])
        high = torch.minimum(boxes[i, 2:], boxes[i + 1 :, 2:])
        intersection = (high - low).clamp(min=0).prod(dim=1)
        gone[i + 1 :] |= intersection / (area[i] + area[i + 1 :] - intersection) > iou_threshold
    return order[kept]


@functools.cache
def _fallback_library() -> torch.library.Library:
    """The registration lives as long as this object, so it has to be held."""
    import torch

    return torch.library.Library("torchvision", "FRAGMENT")
