"""ONNX graph → plan, through the differences between TensorRT 8.2 and 11.

Given a verified graph of static shapes and its recipe:

    network_from_onnx → config_from_recipe → plan_from_network

Every attribute outside the range that all versions share stands behind a `hasattr` (see api.py). Precision:
up to 10.16 types are weak, and flags choose the kernels' types; the layers that a float16 graph leaves in float32 are
pinned there, and a graph without any float16 tensor (an aggregator) is built in float32. From 11 on the graph's types
are all there is. TF32 is switched off: its ten bits of mantissa are outside what golden vectors allow.
"""

from typing import TYPE_CHECKING, Any, List, NamedTuple, Tuple

from ..errors import CheckFailed, CoformerError
from .library import Log, uncollected
from .recipe import Recipe

if TYPE_CHECKING:
    import tensorrt


class ParserProblem(NamedTuple):
    """One error of the ONNX parser; `node` is the name, or the index where the version knows no names."""

    node: str
    operator: str
    reason: str

    def __str__(self) -> str:
        kind = " ({})".format(self.operator) if self.operator else ""
        return "node '{}'{}: {}".format(self.node, kind, self.reason)


@uncollected()
def plan_from_onnx(
    trt: Any, graph_path: str, recipe: Recipe, timing_cache: bytes
) -> Tuple["tensorrt.IHostMemory", "tensorrt.IHostMemory"]:
    """Build a plan.

    Args:
        trt: the library.
        graph_path: an ONNX file of static shapes.
        recipe: how to build.
        timing_cache: what an earlier build of this board left; b"" for none.

    Returns:
        The plan and the new timing cache, as objects with the buffer interface.

    Raises:
        CheckFailed: the parser or the builder refuses; says which nodes, or what the library said.
        CoformerError: this TensorRT cannot do what the recipe asks for.
    """
    log = Log(trt)
    builder = trt.Builder(log.logger)
    network, problems = network_from_onnx(trt, builder, log, graph_path, recipe.strongly_typed)
    if problems:
        raise CheckFailed(
            "TensorRT {} does not take it: {}".format(trt.__version__, "; ".join(str(each) for each in problems)),
            "graph {}".format(graph_path),
            "build the bundle for this TensorRT ('coformerc targets'); if it was, report it as a bug, with the graph",
        )
    config = config_from_recipe(trt, builder, network, recipe, graph_path)
    cache = timing_cache_from(config, timing_cache)
    plan = plan_from_network(trt, builder, network, config, log, graph_path)
    return plan, cache.serialize()


def network_from_onnx(
    trt: Any, builder: "tensorrt.Builder", log: Log, graph_path: str, strongly_typed: bool
) -> Tuple["tensorrt.INetworkDefinition", List[ParserProblem]]:
    """Return the network and every error of the parser; weights beside the graph are found by its path."""
    network = builder.create_network(_network_flags(trt, strongly_typed, graph_path))
    parser = trt.OnnxParser(network, log.logger)
    with open(graph_path, "rb") as stream:
        content = stream.read()
    if parser.parse(content, graph_path):
        return network, []
    problems = [_problem(parser.get_error(index)) for index in range(parser.num_errors)]
    return network, problems or [ParserProblem("?", "", log.told())]


def _problem(error: "tensorrt.ParserError") -> ParserProblem:
    reason = " ".join(error.desc().split())
    if hasattr(error, "node_name"):
        return ParserProblem(error.node_name() or str(error.node()), error.node_operator(), reason)
    return ParserProblem(str(error.node()), "", reason)


def _network_flags(trt: Any, strongly_typed: bool, where: str) -> int:
    """The bits for create_network: the values behind the names differ between versions."""
    flags = 0
    if hasattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH"):
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
    if not strongly_typed:
        return flags
    if hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        return flags | 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    raise CoformerError(
        "the recipe asks for a strongly typed network, TensorRT {} has none".format(trt.__version__),
        where,
        "build the bundle for this board's target",
    )


def config_from_recipe(
    trt: Any, builder: "tensorrt.Builder", network: "tensorrt.INetworkDefinition", recipe: Recipe, where: str
) -> "tensorrt.IBuilderConfig":
    """Return the builder's configuration: memory and precision."""
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    if recipe.workspace_mb is not None:
        _limit_workspace(trt, config, recipe.workspace_mb << 20)
    if recipe.precision != "float32" and not recipe.strongly_typed:
        _lower_precision(trt, config, network, recipe, where)
    return config


def _limit_workspace(trt: Any, config: "tensorrt.IBuilderConfig", size_bytes: int) -> None:
    if hasattr(config, "set_memory_pool_limit"):
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, size_bytes)
    else:
        config.max_workspace_size = size_bytes


def _lower_precision(
    trt: Any,
    config: "tensorrt.IBuilderConfig",
    network: "tensorrt.INetworkDefinition",
    recipe: Recipe,
    where: str,
) -> None:
    if hasattr(trt.BuilderFlag, "FP16"):
        if recipe.precision == "int8":
            config.set_flag(trt.BuilderFlag.INT8)
        elif _has_halves(trt, network):
            config.set_flag(trt.BuilderFlag.FP16)
            if _pin_float32(trt, network):
                config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    else:
        raise CoformerError(
            "{} by flags is asked for, TensorRT {} takes it from the graph's types only".format(
                recipe.precision, trt.__version__
            ),
            where,
            "build the bundle for this board's target",
        )


def _has_halves(trt: Any, network: "tensorrt.INetworkDefinition") -> bool:
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    return any(dtype == trt.DataType.HALF for layer in layers for dtype in _output_dtypes(layer))


def _pin_float32(trt: Any, network: "tensorrt.INetworkDefinition") -> int:
    """Pin the float32 layers; return how many. One counts if it has float32 inputs and all its outputs are."""
    single, pinned = trt.DataType.FLOAT, 0
    for layer in [network.get_layer(index) for index in range(network.num_layers)]:
        inputs = [layer.get_input(index) for index in range(layer.num_inputs)]
        takes = any(tensor is not None and tensor.dtype == single for tensor in inputs)
        if takes and all(dtype == single for dtype in _output_dtypes(layer)):
            _pin(layer, single)
            pinned += 1
    return pinned


def _output_dtypes(layer: "tensorrt.ILayer") -> List["tensorrt.DataType"]:
    return [layer.get_output(index).dtype for index in range(layer.num_outputs)]


def _pin(layer: "tensorrt.ILayer", dtype: "tensorrt.DataType") -> None:
    if hasattr(layer, "set_output_type"):  # without it types are strong, and nothing has to be pinned
        layer.precision = dtype
        for index in range(layer.num_outputs):
            layer.set_output_type(index, dtype)


def timing_cache_from(config: "tensorrt.IBuilderConfig", content: bytes) -> "tensorrt.ITimingCache":
    """Give the builder an earlier timing cache and return it; one that the library refuses is begun anew."""
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return config.get_timing_cache()


def plan_from_network(
    trt: Any,
    builder: "tensorrt.Builder",
    network: "tensorrt.INetworkDefinition",
    config: "tensorrt.IBuilderConfig",
    log: Log,
    graph_path: str,
) -> "tensorrt.IHostMemory":
    """Return the serialised engine; raise a CheckFailed with what the library said."""
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise CheckFailed(
            "TensorRT {} cannot build it: {}".format(trt.__version__, log.told()),
            "graph {}".format(graph_path),
            "if memory is short, stop other programs (the desktop first); if a node has no implementation, build the "
            "bundle with more workspace, and report it with the graph",
        )
    return plan
