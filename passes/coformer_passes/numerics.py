"""Run a graph through ONNX Runtime on golden inputs, without a second copy of its weights, and compare outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import onnx_ir as ir

from coformer_runtime.errors import CheckFailed, CoformerError

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    Arrays = Mapping[str, NDArray[np.generic]]
    Feeds = dict[str, NDArray[np.generic]]
    Golden = Arrays | Sequence[Arrays]

BIG_TENSOR_ELEMENTS = 1024


def proto_without_weights(model: ir.Model) -> tuple[onnx.ModelProto, dict[str, NDArray[np.generic]]]:
    """The model with its big initializers turned into inputs, and these by name.

    The proto stays a few hundred kilobytes, so that checking and running a model of 100 MB needs no second copy of
    the weights: ONNX Runtime reads inputs where they lie. What stays in the proto is never a reference to a file:
    whoever is given bytes knows of no folder to look in. The model is unchanged afterwards.
    """
    import numpy as np

    graph = model.graph
    big = {
        name: value
        for name, value in graph.initializers.items()
        if value.const_value is not None and value.const_value.size > BIG_TENSOR_ELEMENTS
        and not value.is_graph_input() and not value.is_graph_output()
    }  # fmt: skip
    order = list(graph.initializers.values())
    inputs = list(graph.inputs)
    try:
        for name, value in big.items():
            del graph.initializers[name]
            graph.inputs.append(value)
        with _read_from_files(model):
            proto = ir.to_proto(model)
    finally:
        graph.inputs.clear()
        graph.inputs.extend(inputs)
        graph.initializers.clear()
        for value in order:
            graph.initializers.add(value)
    tensors = {name: value.const_value for name, value in big.items()}
    return proto, {name: np.ascontiguousarray(t.numpy()) for name, t in tensors.items() if t is not None}


@contextmanager
def _read_from_files(model: ir.Model) -> Iterator[None]:
    """Meanwhile, the initializers that lie in files beside the graph are in memory."""
    kept = [
        (value, value.const_value)
        for graph in model.graphs()
        for value in graph.initializers.values()
        if isinstance(value.const_value, ir.ExternalTensor)
    ]
    read = ir.external_data.convert_tensors_from_external([tensor for _, tensor in kept])
    try:
        for (value, _), tensor in zip(kept, read, strict=True):
            value.const_value = tensor
        yield
    finally:
        for value, tensor in kept:
            value.const_value = tensor


def computes_in_halves(model: ir.Model) -> bool:
    """Whether a node of the main graph makes float16."""
    return any(output.dtype == ir.DataType.FLOAT16 for node in model.graph for output in node.outputs)


def with_rounding(model: ir.Model) -> ir.Model:
    """A clone that computes in float32 and rounds to float16 wherever the model has float16.

    ONNX Runtime's CPU provider has few float16 kernels: it computes whole chains of such nodes in float32 and rounds
    at their end only, so an overflow between them would not be seen. A pair of Casts behind each node is kept.
    """
    import numpy as np

    clone = model.clone()
    graph, half, single = clone.graph, ir.DataType.FLOAT16, ir.DataType.FLOAT
    for value in graph.initializers.values():
        if value.dtype == half and value.const_value is not None and not value.is_graph_output():
            array = value.const_value.numpy().astype(np.float32)
            value.const_value, value.type = ir.tensor(array, name=value.name), ir.TensorType(single)
    nodes = list(graph)
    for value in graph.inputs:
        if value.dtype == half:
            widened = ir.Value(name=f"{value.name}.widened", shape=value.shape, type=ir.TensorType(single))
            value.replace_all_uses_with(widened)
            graph.insert_before(nodes[0], ir.node("Cast", [value], {"to": int(single)}, outputs=[widened]))
    for node in nodes:
        for output in node.outputs:
            if output.dtype == half and not output.is_graph_output():
                rounded = ir.Value(name=f"{output.name}.rounded", shape=output.shape, type=ir.TensorType(half))
                widened = ir.Value(name=f"{output.name}.widened", shape=output.shape, type=ir.TensorType(single))
                output.replace_all_uses_with(widened)
                casts = [ir.node("Cast", [rounded], {"to": int(single)}, outputs=[widened])]
                if node.op_type == "Cast":
                    node.resize_outputs(1)
                    casts[0].replace_input_with(0, output)
                else:
                    output.type = ir.TensorType(single)
                    casts.insert(0, ir.node("Cast", [output], {"to": int(half)}, outputs=[rounded]))
                graph.insert_after(node, casts)
    return clone


def check_structure(proto: onnx.ModelProto, where: str) -> None:
    """onnx.checker with shape inference over a proto.

    Raises:
        CheckFailed: naming `where` and what the checker says.
    """
    import onnx

    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise CheckFailed(
            f"onnx.checker refuses the graph: {' '.join(str(error).split())}",
            where,
            "report it as a bug, with the graph",
        ) from error


def outputs_of(
    proto: onnx.ModelProto, weights: Arrays, cases: Sequence[Arrays], where: str
) -> list[dict[str, NDArray[np.generic]]]:
    """The outputs of every case, by name, from ONNX Runtime's CPU provider with all its own rewrites off.

    An operator that it has no kernel for (Where on booleans) is computed by ONNX's own, slow definition.

    Raises:
        CheckFailed: ONNX Runtime refuses the graph or fails in it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return [dict(zip(names, session.run(names, {**case, **weights}), strict=True)) for case in cases]
    except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented:
        return _outputs_by_definition(proto, weights, cases)
    except Exception as error:  # ONNX Runtime has one exception class per status code and no common public base
        raise CheckFailed(
            f"ONNX Runtime {onnxruntime.__version__} fails: {' '.join(str(error).split())}",
            where,
            "report it as a bug, with the graph",
        ) from error


def first_cases(golden: Golden, count: int) -> Golden:
    """The first `count` cases."""
    if isinstance(golden, Mapping):
        return {name: array[:count] for name, array in golden.items()}
    return golden[:count]


def _outputs_by_definition(
    proto: onnx.ModelProto, weights: Arrays, cases: Sequence[Arrays]
) -> list[dict[str, NDArray[np.generic]]]:
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(proto)
    names = [output.name for output in proto.graph.output]
    runs = [evaluator.run(names, {**case, **weights}) for case in cases]
    return [dict(zip(names, run, strict=True)) for run in runs if isinstance(run, list)]


def cases_of(golden: Golden, model: ir.Model) -> list[dict[str, NDArray[np.generic]]]:
    """Golden arrays `(cases, …)` as feeds of the graph, one case at a time, in the dtypes that the graph wants.

    A sequence holds whole feeds, one a case, for graphs whose first axis is no batch of one.

    Raises:
        CoformerError: an input is missing, unknown, has another shape, or the inputs differ in number of cases.
    """
    wanted = {str(value.name): value for value in model.graph.inputs}
    if not isinstance(golden, Mapping):
        return [
            {name: array.astype(_dtype_of(wanted[name], array), copy=False) for name, array in case.items()}
            for case in golden
        ]
    if set(golden) != set(wanted):
        raise CoformerError(
            f"golden inputs {sorted(golden)} are not the graph's {sorted(wanted)}",
            "golden inputs",
            "give one array per graph input, by its name",
        )
    count = min((len(array) for array in golden.values()), default=0)
    if count == 0:
        raise CoformerError("there are none", "golden inputs", "give at least one case")
    cases: list[dict[str, NDArray[np.generic]]] = [{} for _ in range(count)]
    for name, array in golden.items():
        value = wanted[name]
        shape = value.shape
        fits = shape is None or (array.ndim == len(shape) and _same_axes(shape[1:], array.shape[1:]))
        if not fits or len(array) != count:
            raise CoformerError(
                f"'{name}' has shape {array.shape}, the graph wants {shape} for each of {count} cases",
                "golden inputs",
                "give all inputs as (cases, …) with the graph's other axes",
            )
        dtype = _dtype_of(value, array)
        for index, case in enumerate(cases):
            case[name] = array[index : index + 1].astype(dtype, copy=False)
    return cases


def _dtype_of(value: ir.Value, array: NDArray[np.generic]) -> np.dtype[np.generic]:
    return array.dtype if value.dtype is None else value.dtype.numpy()


def _same_axes(axes: Sequence[int | ir.SymbolicDim], sizes: Sequence[int]) -> bool:
    return all(not isinstance(axis, int) or axis == size for axis, size in zip(axes, sizes, strict=True))


def relative_difference(expected: Sequence[Arrays], found: Sequence[Arrays]) -> tuple[float, str]:
    """The greatest |found − expected| / max |expected| over all outputs, and the name of that output.

    The magnitude of an output is that of all its cases. Infinity where shapes differ, an output is missing, or one
    side has a NaN that the other has not.
    """
    import numpy as np

    worst, name_of_worst = 0.0, ""
    for name in expected[0]:
        if name not in found[0] or any(e[name].shape != f[name].shape for e, f in zip(expected, found, strict=True)):
            return float("inf"), name
        before = np.concatenate([np.asarray(case[name], np.float64).reshape(-1) for case in expected])
        after = np.concatenate([np.asarray(case[name], np.float64).reshape(-1) for case in found])
        magnitude = float(np.max(np.abs(before), initial=0.0)) or 1.0
        difference = float(np.max(np.abs(after - before), initial=0.0)) / magnitude
        if np.isnan(difference):
            difference = 0.0 if np.array_equal(before, after, equal_nan=True) else float("inf")
        if difference >= worst:
            worst, name_of_worst = difference, name
    return worst, name_of_worst
