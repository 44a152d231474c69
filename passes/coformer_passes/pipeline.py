"""The order of the passes, one literal pipeline per engine kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from coformer_passes.check_operators import check_operators
from coformer_passes.decompose_gelu import decompose_gelu
from coformer_passes.decompose_layer_norm import decompose_layer_norm
from coformer_passes.decompose_rms_norm import decompose_rms_norm
from coformer_passes.expand_functions import expand_functions
from coformer_passes.fold_attention_scale import fold_attention_scale
from coformer_passes.fold_constants import fold_constants
from coformer_passes.fold_input_normalisation import fold_input_normalisation
from coformer_passes.fold_norm_affine import fold_norm_affine
from coformer_passes.fuse_attention import fuse_attention
from coformer_passes.infer_shapes import infer_shapes
from coformer_passes.inline_functions import inline_functions
from coformer_passes.lower_booleans import lower_booleans
from coformer_passes.lower_opset import lower_opset
from coformer_passes.narrow_int64 import narrow_int64
from coformer_passes.quantise_linears import quantise_linears
from coformer_passes.raise_opset import raise_opset
from coformer_passes.remove_idle_nodes import remove_idle_nodes
from coformer_passes.separate_linears import separate_linears
from coformer_passes.share_equal_nodes import share_equal_nodes
from coformer_passes.to_float16 import to_float16
from coformer_passes.unpack_sequences import unpack_sequences
from coformer_passes.widen_input import widen_input

if TYPE_CHECKING:
    import onnx_ir as ir

    from coformer_targets import Target

    Pass = Callable[[ir.Model, Target], bool]

# ONNX Runtime's own optimizer makes one FusedMatMul of product and scale, and its LayerNormalization kernel applies
# gain and bias on the way: folding either changed no median there, so the CPU graph keeps them. Passes that give up
# precision come behind all that move a rounding error: a quantised graph turns one into steps of its integers.
PIPELINES: dict[str, tuple[Pass, ...]] = {
    "onnxruntime": (
        inline_functions,
        raise_opset,
        unpack_sequences,
        infer_shapes,
        fold_constants,
        remove_idle_nodes,
        fold_input_normalisation,
        separate_linears,
        decompose_rms_norm,
        decompose_layer_norm,
        decompose_gelu,
        expand_functions,
        lower_booleans,
        share_equal_nodes,
        fuse_attention,
        quantise_linears,
        lower_opset,
        check_operators,
    ),
    "tensorrt": (
        inline_functions,
        raise_opset,
        unpack_sequences,
        infer_shapes,
        fold_constants,
        remove_idle_nodes,
        fold_input_normalisation,
        widen_input,
        fold_norm_affine,
        fold_attention_scale,
        decompose_rms_norm,
        decompose_layer_norm,
        decompose_gelu,
        expand_functions,
        lower_booleans,
        narrow_int64,
        share_equal_nodes,
        to_float16,
        lower_opset,
        check_operators,
    ),
    "tensorrt-rtx": (
        inline_functions,
        raise_opset,
        unpack_sequences,
        infer_shapes,
        fold_constants,
        remove_idle_nodes,
        fold_input_normalisation,
        widen_input,
        fold_norm_affine,
        fold_attention_scale,
        decompose_rms_norm,
        decompose_layer_norm,
        decompose_gelu,
        expand_functions,
        share_equal_nodes,
        to_float16,
        lower_opset,
        check_operators,
    ),
}
TOLERANCES: dict[Pass, float] = {to_float16: 1e-2, quantise_linears: 0.1}
"""What a pass that gives up precision may cause, as a part of the output's magnitude; all others are exact."""
