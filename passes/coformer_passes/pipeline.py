"""The order of the passes, one literal pipeline per engine kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from coformer_passes.decompose_gelu import decompose_gelu
from coformer_passes.decompose_layer_norm import decompose_layer_norm
from coformer_passes.fold_input_normalisation import fold_input_normalisation
from coformer_passes.infer_shapes import infer_shapes
from coformer_passes.lower_opset import lower_opset
from coformer_passes.widen_input import widen_input

if TYPE_CHECKING:
    import onnx_ir as ir
    from coformer_targets import Target

    Pass = Callable[[ir.Model, Target], bool]

PIPELINES: dict[str, tuple[Pass, ...]] = {
    "onnxruntime": (
        infer_shapes,
        fold_input_normalisation,
        decompose_layer_norm,
        decompose_gelu,
        lower_opset,
    ),
    "tensorrt": (
        infer_shapes,
        fold_input_normalisation,
        widen_input,
        decompose_layer_norm,
        decompose_gelu,
        lower_opset,
    ),
}
