"""Graphs as files: a foreign one read with all its faults told, a legal one written whole."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

import onnx_ir as ir

from coformer_passes.rewriting import static_shape
from coformer_runtime.errors import CoformerError

if TYPE_CHECKING:
    import onnx

HIGHEST_OPSET = 24
INLINE_BYTES = 1_500_000_000
"""Weights beyond this go into a file of their own: protobuf ends at 2 GiB, and its parsers copy."""


def read_graph(path: Path, shapes: Mapping[str, Sequence[int]] | None = None) -> ir.Model:
    """Any ONNX file of opset up to 24, with static shapes, its nodes sorted.

    Args:
        path: the file; weights beside it are read too.
        shapes: graph input → the shape that its dynamic axes get.

    Raises:
        CoformerError: the file is missing, truncated or no ONNX; it says a shape that its data lacks; its data lies
            outside of its folder; its nodes form a cycle, or read what nothing makes; its opset is too new; operators
            of another domain; dynamic inputs.
    """
    where = f"graph {path.name}"
    proto = _read_proto(path, where)
    _refuse(_data_elsewhere(proto), where, "export it with its data in a file beside it, or within the graph")
    _refuse(_wrong_data(proto, path.parent), where, "its file is damaged: export it again")
    opset = max((each.version for each in proto.opset_import if each.domain in ("", "ai.onnx")), default=0)
    if not 0 < opset <= HIGHEST_OPSET:
        raise CoformerError(
            f"its opset is {opset or 'not stated'}", where, f"export it with opset_version = {HIGHEST_OPSET} or lower"
        )
    functions = {(each.domain, each.name) for each in proto.functions}
    _refuse(
        (
            f"'{node.name or node.output[0]}' ({node.op_type}) is of the domain '{node.domain}'"
            for node in _all_nodes(proto.graph)
            if node.domain not in ("", "ai.onnx") and (node.domain, node.op_type) not in functions
        ),
        where,
        "export it with ONNX's own operators, or with the functions that define these",
    )
    _refuse(_loose_ends(proto.graph), where, "its file is damaged: export it again")
    model = _held_in_memory(ir.load(path))
    _sort(model, where)
    _give_shapes(model, shapes or {}, where)
    return model


def save_graph(model: ir.Model, path: Path, *, inline_bytes: int = INLINE_BYTES) -> None:
    """Write the graph; weights of more than `inline_bytes` go into `<name>.data` beside it. All of it or nothing."""
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        draft = Path(folder) / path.name
        ir.save(model, draft, external_data=f"{path.name}.data" if size > inline_bytes else None)
        for each in sorted(Path(folder).iterdir(), reverse=True):  # the graph last: it names the data
            each.replace(path.parent / each.name)


def _read_proto(path: Path, where: str) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        proto = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise CoformerError(
            f"cannot be read ({error.strerror})", where, "give the path of a readable ONNX file"
        ) from error
    except DecodeError as error:
        raise CoformerError(
            f"is truncated, or no ONNX file at all ({error})", where, "give an ONNX file that is whole"
        ) from error
    if not proto.HasField("graph") or not proto.graph.output:
        raise CoformerError(
            "is truncated, or no ONNX file at all (it has no graph)", where, "give an ONNX file that is whole"
        )
    return proto


def _refuse(problems: Iterable[str], where: str, mend: str) -> None:
    found = sorted(problems)
    if found:
        raise CoformerError("; ".join(found), where, mend)


def _wrong_data(proto: onnx.ModelProto, folder: Path) -> Iterable[str]:
    """Initializers and constants, of subgraphs too, whose data is not as long as their shape says."""
    from onnx import TensorProto

    for what, tensor in _tensors(proto):
        if tensor.data_type == TensorProto.STRING:
            continue
        problem = (
            _wrong_external_data(tensor, folder)
            if tensor.data_location == TensorProto.EXTERNAL
            else _wrong_inner_data(tensor)
        )
        if problem:
            yield f"{what} says the shape [{','.join(map(str, tensor.dims))}], {problem}"


def _wrong_inner_data(tensor: onnx.TensorProto) -> str | None:
    from onnx import TensorProto, helper

    said, bits = math.prod(tensor.dims), ir.DataType(tensor.data_type).bitwidth
    if tensor.HasField("raw_data"):
        needed, held = -(-said * bits // 8), len(tensor.raw_data)
        return None if held == needed else f"{needed} bytes, and holds {held} bytes"
    if bits < 8:
        return None
    parts = 2 if tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128) else 1
    held = len(getattr(tensor, helper.tensor_dtype_to_field(tensor.data_type))) // parts
    return None if held == said else f"{said} numbers, and holds {held} numbers"


def _wrong_external_data(tensor: onnx.TensorProto, folder: Path) -> str | None:
    entries = {each.key: each.value for each in tensor.external_data}
    needed = -(-math.prod(tensor.dims) * ir.DataType(tensor.data_type).bitwidth // 8)
    for key in ("offset", "length"):
        if not entries.get(key, "0").isdecimal():
            return f"{needed} bytes, and the {key} '{entries[key]}' in its file"
    data, length = folder / entries.get("location", ""), int(entries.get("length", needed))
    held = min(length, data.stat().st_size - int(entries.get("offset", 0))) if data.is_file() else 0
    return None if held >= needed else f"{needed} bytes, and '{data.name}' holds {max(held, 0)} bytes of it"


def _data_elsewhere(proto: onnx.ModelProto) -> Iterable[str]:
    """Tensors whose data is said to lie outside of the graph's folder: a graph may name any file of the machine."""
    from onnx import TensorProto

    for what, tensor in _tensors(proto):
        if tensor.data_location == TensorProto.EXTERNAL:
            location = next((each.value for each in tensor.external_data if each.key == "location"), "")
            path = PurePosixPath(location.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts or PureWindowsPath(location).drive:
                yield f"{what} has its data in '{location}', outside of the graph's folder"


def _tensors(proto: onnx.ModelProto) -> Iterable[tuple[str, onnx.TensorProto]]:
    """Every tensor of the model, of subgraphs and functions too, and what to call it."""
    for graph in _graphs(proto.graph):
        for tensor in graph.initializer:
            yield f"initializer '{tensor.name}'", tensor
        for sparse in graph.sparse_initializer:
            yield f"initializer '{sparse.values.name}'", sparse.values
    for node in (*_all_nodes(proto.graph), *(node for each in proto.functions for node in each.node)):
        name = node.name or next(iter(node.output), "")
        for attribute in node.attribute:
            what = f"constant '{name}'" if node.op_type == "Constant" else f"attribute '{attribute.name}' of '{name}'"
            if attribute.HasField("t"):
                yield what, attribute.t
            if attribute.HasField("sparse_tensor"):
                yield what, attribute.sparse_tensor.values
            for tensor in attribute.tensors:
                yield what, tensor


def _held_in_memory(model: ir.Model) -> ir.Model:
    """The model without references to files: in initializers, and in attributes, which onnx_ir leaves as they are."""
    for node in model.graph.all_nodes():
        for name, attribute in list(node.attributes.items()):
            if attribute.type == ir.AttributeType.TENSOR and isinstance(attribute.value, ir.ExternalTensor):
                (tensor,) = ir.external_data.convert_tensors_from_external([attribute.value])
                node.attributes[name] = ir.AttrTensor(name, tensor)
    return ir.external_data.load_to_model(model)


def _graphs(graph: onnx.GraphProto) -> Iterable[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                yield from _graphs(inner)


def _all_nodes(graph: onnx.GraphProto) -> Iterable[onnx.NodeProto]:
    for each in _graphs(graph):
        yield from each.node


def _loose_ends(graph: onnx.GraphProto) -> Iterable[str]:
    """Values of the main graph that are read and that nothing makes."""
    made = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    made |= {tensor.values.name for tensor in graph.sparse_initializer}
    made |= {name for node in graph.node for name in node.output}
    for node in graph.node:
        for name in node.input:
            if name and name not in made:
                yield f"'{node.name or node.output[0]}' ({node.op_type}) reads '{name}', which nothing makes"
    for value in graph.output:
        if value.name not in made:
            yield f"nothing makes the output '{value.name}'"


def _sort(model: ir.Model, where: str) -> None:
    try:
        model.graph.sort()
    except ValueError as error:
        cyclic = ", ".join(
            f"'{node.name or node.outputs[0].name}' ({node.op_type})" for node in _in_cycles(model.graph)
        )
        raise CoformerError(
            f"its nodes form a cycle: {cyclic}", where, "export it again: a graph must be acyclic"
        ) from error


def _in_cycles(graph: ir.Graph) -> list[ir.Node]:
    """The nodes that wait for each other: what is left without those that wait for none, or that none waits for."""
    left = list(graph)
    while True:
        there = set(left)
        kept = [
            node
            for node in left
            if any(parent in there for parent in node.predecessors())
            and any(child in there for child in node.successors())
        ]
        if len(kept) == len(left):
            return kept
        left = kept


def _give_shapes(model: ir.Model, shapes: Mapping[str, Sequence[int]], where: str) -> None:
    from onnx_ir.passes.common import ShapeInferencePass

    inputs = {str(value.name): value for value in model.graph.inputs}
    for name, shape in shapes.items():
        value = inputs.get(name)
        if value is None:
            raise CoformerError(f"it has no input '{name}'", where, f"its inputs are {', '.join(sorted(inputs))}")
        old = value.shape
        if old is not None and (
            len(old) != len(shape)
            or any(isinstance(axis, int) and axis != size for axis, size in zip(old, shape, strict=True))
        ):
            raise CoformerError(
                f"input '{name}' is {old}, {list(shape)} does not fit", where, "give another shape, or leave it out"
            )
        value.shape = ir.Shape(shape)
    if shapes:
        for node in model.graph.all_nodes():
            for output in node.outputs:
                output.shape = None  # they were said for other inputs; infer_shapes says them anew
        ShapeInferencePass()(model)
    dynamic = [
        f"input '{name}' has the dynamic shape {value.shape}" for name, value in inputs.items() if _is_open(value)
    ]
    example = next((name for name, value in inputs.items() if _is_open(value)), "")
    _refuse(dynamic, where, f"export it with static shapes, or give them: --shape {example}=1,3,224,224")


def _is_open(value: ir.Value) -> bool:
    return static_shape(value) is None
