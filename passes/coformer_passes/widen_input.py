"""Give an engine that takes no uint8 input a float32 one."""

from __future__ import annotations

import onnx_ir as ir

from coformer_passes.rewriting import bypass, is_op, name_of
from coformer_runtime.errors import CoformerError
from coformer_targets import Target


def widen_input(model: ir.Model, target: Target) -> bool:
    """Make uint8 graph inputs float32 and remove the Cast behind them, where the target takes no uint8.

    Given::

        graph (uint8[1,3,224,224] pixels) { floats = Cast<to = FLOAT>(pixels)  patches = Conv(floats, w) }

    Result::

        graph (float[1,3,224,224] pixels) { patches = Conv(pixels, w) }

    Pixels still travel as bytes; whoever feeds the engine casts them.

    Why: TensorRT knows no UINT8 data type before 8.5, so its parser refuses the input.
    TensorRT: up to 8.4 (`uint8_input = false` in the target's file).
    Source: NvInferRuntimeCommon.h, `DataType::kUINT8` from 8.5 on.

    Raises:
        CoformerError: a node other than a Cast to float32 reads the bytes, so their meaning would change.
    """
    if target.uint8_input:
        return False
    narrow = [value for value in model.graph.inputs if value.dtype == ir.DataType.UINT8]
    for value in narrow:
        readers = [use.node for use in value.uses()]
        for node in readers:
            if not is_op(node, "Cast") or node.attributes["to"].as_int() != ir.DataType.FLOAT:
                raise CoformerError(
                    f"node '{name_of(node)}' ({node.op_type}) reads the uint8 input '{value.name}', "
                    f"and {target.name} (TensorRT {target.engine_version}) takes no uint8",
                    "widen_input",
                    "cast the input to float32 before any other node reads it",
                )
        value.type = ir.TensorType(ir.DataType.FLOAT)  # a new one: a clone shares the type with its origin
        for node in readers:
            bypass(node)
    return bool(narrow)
