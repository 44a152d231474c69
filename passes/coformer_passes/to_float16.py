"""Write the graph in half precision, with islands of float32 where halves do not suffice."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import onnx_ir as ir

from coformer_passes.rewriting import add_initializer, add_node, array_of, drop_unused_initializers, is_op, name_of
from coformer_runtime.errors import CoformerError
from coformer_targets import Target

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LARGEST, SMALLEST = 65504.0, 2.0**-14
"""Of float16; below the smallest it has fewer than its 11 bits."""
MASKED = 30000.0
"""What a mask subtracts from a score at most: far enough for a softmax of zero, near enough to survive an addition."""

NORMS = ("GroupNormalization", "InstanceNormalization", "LayerNormalization", "LpNormalization", "RMSNormalization")
REDUCTIONS = (
    "CumSum",
    "GlobalAveragePool",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMean",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
)
STEEP = ("Exp", "Log", "Pow", "Reciprocal", "Sqrt")
ISLANDS = frozenset((*NORMS, *REDUCTIONS, *STEEP, "LogSoftmax", "Softmax"))


def to_float16(model: ir.Model, target: Target) -> bool:
    """Compute in float16 where the target's precision is float16, but norms, softmax and reductions in float32.

    Given, for a target whose first precision is float16::

        p = MatMul(x, W)      w = Softmax(p)      y = MatMul(w, v)

    Result::

        half = Cast<to = FLOAT16>(x)      p = MatMul(half, W16)      single = Cast<to = FLOAT>(p)
        w = Softmax(single)               w16 = Cast<to = FLOAT16>(w)
        y16 = MatMul(w16, v16)            y = Cast<to = FLOAT>(y16)

    Inputs and outputs of the graph keep their types. An island is a norm, a softmax, a reduction, Exp, Log, Pow, Sqrt;
    an elementwise node that reads what a reduction or a root has made (centring, division by the deviation), or whose
    result only they read (the square before a sum); and a node whose constant is beyond ±65504, or wholly below the
    normal numbers of float16. A mask, that is a constant that is added right before a softmax, is limited to ±30000
    instead, so that the sum stays finite.

    Why: FP16 is the precision that a Jetson is fast in; without islands norms overflow on outlier activations, and
    rows of masks of −∞ become NaN.
    TensorRT: all versions; strongly typed from 11 on and in TensorRT-RTX, where this is the only way. Below, the board
    pins the layers that the graph says are float32.

    Why the softmax of attention is an island as well: TensorRT fuses MatMul, mask, Softmax, MatMul into one kernel from
    SM 7.5 and 8.6 on (heads of 16 to 256 in eights, both products in halves), and the Casts do not keep it from that.
    Plans of TensorRT-RTX 1.7.1 for SM 8.6, 8.9 and 12.0 hold the fused kernel with the island and without, for heads of
    16, 64, 72 and 128, of 17 to 1,024 tokens, with a mask and without one. Where its source is in the plan (heads of 16
    and 64, up to 197 tokens) it tells the difference: with the Casts scores accumulate in float32, without in float16.
    A product of float32 would prevent the fusion, so products are no islands. TensorRT 10.15 has been seen to fuse
    around such islands too (Stability-AI/stable-audio-3 73), not with products of float32 (79), and its fused kernel of
    halves to overflow in the sum of a softmax over 65,536 keys (tier4/autoware-ml 95). Not established: whether
    TensorRT 8.6 and 10.3 of Orin, weakly typed, fuse around a pinned softmax. Below SM 7.5 nothing is fused.
    Source: TensorRT issues 1196, 1500, 2118, 2564, 3692, 4111; 3575, 3643, 4167 (fused attention on Orin);
    huggingface/transformers issue 17306 (finite masks).

    Raises:
        CoformerError: the graph holds nodes with subgraphs.
    """
    return write_halves(model, islands_of) if target.precisions[0] == "float16" else False


def write_halves(model: ir.Model, choose: Callable[[ir.Graph], set[ir.Node]]) -> bool:
    """`to_float16` with islands of one's own choice."""
    graph = model.graph
    nodes = [node for node in graph if _speaks_float(node)]
    for node in nodes:
        if any(attribute.type == ir.AttributeType.GRAPH for attribute in node.attributes.values()):
            raise CoformerError(
                f"node '{name_of(node)}' ({node.op_type}) holds a graph of its own",
                "to_float16",
                "leave the precision float32, or export the graph without control flow",
            )
    islands = choose(graph) | {node for node in nodes if not _may_be_half(node)} | _already(graph)
    pending = [node for node in nodes if node not in islands]
    if not pending:
        return False
    _limit_masks(graph)
    writer = _Halves(graph)
    for node in pending:
        writer.halve(node)
    for node in list(graph):
        if node in islands:
            writer.widen(node)
    writer.finish()
    drop_unused_initializers(graph)
    return True


def islands_of(graph: ir.Graph) -> set[ir.Node]:
    """The nodes that stay in float32."""
    islands = {node for node in graph if node.domain == "" and node.op_type in ISLANDS}
    islands |= {node for node in graph if _has_unfit_constant(node)}
    moments = {node for node in islands if is_op(node, *REDUCTIONS, *STEEP)}
    for node in graph:
        if is_op(node, "Add", "Div", "Mul", "Sub") and any(
            value is not None and value.producer() in moments for value in node.inputs
        ):
            islands.add(node)
            if is_op(node, "Add", "Mul") and _is_reduced(node):
                moments.add(node)  # the epsilon that is added before the root
    for node in reversed(list(graph)):
        readers = [use.node for output in node.outputs for use in output.uses()]
        squares = is_op(node, "Mul", "Sub", "Abs") and readers and not node.outputs[0].is_graph_output()
        if squares and all(reader in islands and not is_op(reader, "Softmax", *NORMS) for reader in readers):
            islands.add(node)
    return islands


def _is_reduced(node: ir.Node) -> bool:
    shape = node.outputs[0].shape
    return shape is not None and len(shape) > 0 and shape[-1] == 1


def _speaks_float(node: ir.Node) -> bool:
    values = (*node.inputs, *node.outputs)
    return any(value is not None and value.dtype == ir.DataType.FLOAT for value in values)


def _may_be_half(node: ir.Node) -> bool:
    """Whether the operator takes and makes float16 wherever the node has float32, and does not name its type itself."""
    from onnx import defs

    if node.domain != "" or is_op(node, "Cast", "ConstantOfShape", "EyeLike", "RandomNormal", "RandomUniform"):
        return False
    try:
        schema = defs.get_schema(node.op_type, 24, "")
    except defs.SchemaError:
        return False
    types = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}
    for index, value in enumerate(node.outputs):
        formal = schema.outputs[min(index, len(schema.outputs) - 1)]
        if value.dtype == ir.DataType.FLOAT and "tensor(float16)" not in types.get(formal.type_str, ()):
            return False
    return bool(_half_inputs(node)) or not node.inputs


def _half_inputs(node: ir.Node) -> list[int]:
    """The float32 inputs that may be float16: not the scales of a Resize."""
    from onnx import defs

    schema = defs.get_schema(node.op_type, 24, "")
    types = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}
    return [
        index
        for index, value in enumerate(node.inputs)
        if value is not None
        and value.dtype == ir.DataType.FLOAT
        and "tensor(float16)" in types.get(schema.inputs[min(index, len(schema.inputs) - 1)].type_str, ())
    ]


def _already(graph: ir.Graph) -> set[ir.Node]:
    """Nodes that stand between halves and floats already, so that a second run changes nothing."""
    if not any(output.dtype == ir.DataType.FLOAT16 for node in graph for output in node.outputs):
        return set()
    return set(graph)


def _has_unfit_constant(node: ir.Node) -> bool:
    import numpy as np

    if _is_masking(node):
        return False
    for value in node.inputs:
        array = array_of(value) if value is not None and value.dtype == ir.DataType.FLOAT else None
        if array is not None and array.size:
            greatest = float(np.abs(array.astype(np.float32)).max())
            if greatest > LARGEST or 0 < greatest < SMALLEST:
                return True
    return False


def _is_masking(node: ir.Node) -> bool:
    """Whether the node adds something right before a softmax, maybe with a reshape between."""
    if not is_op(node, "Add", "Where"):
        return False
    readers = [use.node for use in node.outputs[0].uses()]
    while len(readers) == 1 and is_op(readers[0], "Reshape", "Unsqueeze", "Squeeze", "Add"):
        readers = [use.node for use in readers[0].outputs[0].uses()]
    return bool(readers) and all(is_op(reader, "Softmax", "LogSoftmax") for reader in readers)


def _limit_masks(graph: ir.Graph) -> None:
    import numpy as np

    for node in graph:
        if not _is_masking(node):
            continue
        for index, value in enumerate(node.inputs):
            array = array_of(value) if value is not None and value.dtype == ir.DataType.FLOAT else None
            if array is None or not (np.abs(array.astype(np.float32)) > MASKED).any():
                continue
            assert value is not None
            limited = np.clip(array.astype(np.float32), -MASKED, MASKED)
            node.replace_input_with(index, add_initializer(graph, f"{value.name}.limited", limited))


class _Halves:
    """The casts and the half constants of one graph, each made once."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.constants: dict[ir.Value, ir.Value] = {}
        self.halves: dict[ir.Value, ir.Value] = {}
        self.singles: dict[ir.Value, ir.Value] = {}
        self.made: set[ir.Value] = set()

    def halve(self, node: ir.Node) -> None:
        """Let the node read and make halves; nodes come in the order of the graph."""
        for index in _half_inputs(node):
            value = node.inputs[index]
            assert value is not None
            node.replace_input_with(index, self._half(value, node))
        for output in node.outputs:
            if output.dtype == ir.DataType.FLOAT:
                output.type = ir.TensorType(ir.DataType.FLOAT16)
                self.made.add(output)

    def widen(self, node: ir.Node) -> None:
        """Let a node of an island read float32."""
        for index, value in enumerate(node.inputs):
            if value is not None and value in self.made:
                node.replace_input_with(index, self._cast(value, node, ir.DataType.FLOAT, "single", self.singles))

    def finish(self) -> None:
        """Give the graph's outputs the type that they had."""
        last = self.graph[-1]
        for value in list(self.graph.outputs):
            if value in self.made:
                name = value.name
                cast = ir.Value(name=name, shape=value.shape, type=ir.TensorType(ir.DataType.FLOAT))
                value.name = f"{name}.half"
                index = list(self.graph.outputs).index(value)
                self.graph.insert_after(
                    last,
                    ir.node("Cast", [value], {"to": int(ir.DataType.FLOAT)}, outputs=[cast], name=f"{name}.single"),
                )
                self.graph.outputs[index] = cast

    def _half(self, value: ir.Value, node: ir.Node) -> ir.Value:
        import numpy as np

        array = array_of(value)
        if array is None:
            return self._cast(value, node, ir.DataType.FLOAT16, "half", self.halves)
        if value not in self.constants:
            limited = np.clip(array.astype(np.float32), -LARGEST, LARGEST)
            self.constants[value] = add_initializer(self.graph, f"{value.name}.half", _rounded(limited))
        return self.constants[value]

    def _cast(
        self, value: ir.Value, node: ir.Node, dtype: ir.DataType, suffix: str, known: dict[ir.Value, ir.Value]
    ) -> ir.Value:
        if value not in known:
            cast = add_node(node, "Cast", [value], f"{value.name}.{suffix}", like=value, attributes={"to": int(dtype)})
            cast.type = ir.TensorType(dtype)
            known[value] = cast
        return known[value]


def _rounded(array: NDArray[np.float32]) -> NDArray[np.float16]:
    import numpy as np

    return array.astype(np.float16)
