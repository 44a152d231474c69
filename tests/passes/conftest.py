"""Graphs, targets and golden text for the tests of the passes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from coformer_targets import Target, load_target

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def nano() -> Target:
    return load_target("jetson-nano")


@pytest.fixture(scope="session")
def cpu() -> Target:
    return load_target("cpu")


@pytest.fixture(scope="session")
def orin() -> Target:
    """A TensorRT new enough for LayerNormalization, Gelu and uint8."""
    return load_target("jetson-orin-nano@jp6.2")


@pytest.fixture(scope="session")
def parse() -> Callable[..., ir.Model]:
    """Builds a model from the body of an ONNX text graph, shapes inferred; `arrays` become initializers."""

    def parse_graph(text: str, arrays: dict[str, np.ndarray] | None = None, *, opset: int = 20, ir_version: int = 10):
        proto = onnx.parser.parse_model(f'<ir_version: {ir_version}, opset_import: ["": {opset}]> {text}')
        for name, array in (arrays or {}).items():
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        return ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True))

    return parse_graph


@pytest.fixture(scope="session")
def outputs() -> Callable[..., list[np.ndarray]]:
    """Runs a model through ONNX Runtime."""

    def run(model: ir.Model, **inputs: np.ndarray) -> list[np.ndarray]:
        proto = ir.to_proto(model)
        onnx.checker.check_model(proto, full_check=True)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])
        return session.run(None, inputs)

    return run


@pytest.fixture(scope="session")
def op_types() -> Callable[[ir.Model], list[str]]:
    return lambda model: [node.op_type for node in model.graph]


@pytest.fixture(scope="session")
def golden_text(request: pytest.FixtureRequest) -> Callable[[ir.Model, str], None]:
    """Compares a model, as ONNX text, with golden/<name>.onnxtxt."""

    def check(model: ir.Model, name: str) -> None:
        text = ir.to_onnx_text(model)
        path = GOLDEN / f"{name}.onnxtxt"
        if request.config.getoption("--update-golden"):
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"{path} is missing: run pytest with --update-golden"
        assert text == path.read_text(encoding="utf-8")

    return check


@pytest.fixture(scope="session")
def transformer() -> Callable[..., ir.Model]:
    return build_transformer


def build_transformer(
    *,
    layers: int = 2,
    embed: int = 24,
    heads: int = 3,
    head_dim: int = 8,
    mlp: int = 40,
    image: int = 16,
    patch: int = 4,
    channels: int = 3,
    qk_norm: bool = False,
    shortcut: bool = False,
    pool: str = "token",
    activation: str = "none",
    seed: int = 0,
) -> ir.Model:
    """A vision transformer as the compiler lowers it: opset 20, uint8 pixels, separate query, key and value."""
    random = np.random.default_rng(seed)
    tape = ir.tape.Tape()
    tokens = (image // patch) ** 2 + 1

    def constant(name: str, array: np.ndarray) -> ir.Value:
        return tape.initializer(ir.tensor(array, name=name))

    def weights(name: str, *shape: int, centre: float = 0.0, spread: float | None = None) -> ir.Value:
        spread = spread if spread is not None else 1.0 / np.sqrt(shape[0])
        return constant(name, (centre + spread * random.standard_normal(shape)).astype(np.float32))

    def op(name: str, op_type: str, inputs: list[ir.Value], **attributes: object) -> ir.Value:
        return tape.op(op_type, inputs, attributes, name=name, output=ir.Value(name=name))  # type: ignore[arg-type]

    def linear(name: str, x: ir.Value, width_in: int, width_out: int) -> ir.Value:
        product = op(f"{name}.product", "MatMul", [x, weights(f"{name}.weight", width_in, width_out)])
        return op(name, "Add", [product, weights(f"{name}.bias", width_out, spread=0.1)])

    def norm(name: str, x: ir.Value, width: int) -> ir.Value:
        gain = weights(f"{name}.gain", width, centre=1.0, spread=0.2)
        bias = weights(f"{name}.bias", width, spread=0.1)
        return op(name, "LayerNormalization", [x, gain, bias], axis=-1, epsilon=1e-6)

    def split_heads(name: str, x: ir.Value, permutation: list[int]) -> ir.Value:
        shape = constant(f"{name}.split", np.array([1, tokens, heads, head_dim], np.int64))
        return op(f"{name}.heads", "Transpose", [op(f"{name}.reshaped", "Reshape", [x, shape])], perm=permutation)

    def attention(name: str, x: ir.Value) -> ir.Value:
        width = heads * head_dim
        query = split_heads(f"{name}.query", linear(f"{name}.query", x, embed, width), [0, 2, 1, 3])
        key_order = [0, 2, 1, 3] if qk_norm else [0, 2, 3, 1]
        key = split_heads(f"{name}.key", linear(f"{name}.key", x, embed, width), key_order)
        value = split_heads(f"{name}.value", linear(f"{name}.value", x, embed, width), [0, 2, 1, 3])
        if qk_norm:
            query = norm(f"{name}.query_norm", query, head_dim)
            key = op(f"{name}.key.turned", "Transpose", [norm(f"{name}.key_norm", key, head_dim)], perm=[0, 1, 3, 2])
        scale = constant(f"{name}.scale", np.array(head_dim**-0.5, np.float32))
        scores = op(f"{name}.scores", "MatMul", [op(f"{name}.query.scaled", "Mul", [query, scale]), key])
        mixed = op(f"{name}.mixed", "MatMul", [op(f"{name}.weights", "Softmax", [scores], axis=-1), value])
        joined = op(f"{name}.joined", "Transpose", [mixed], perm=[0, 2, 1, 3])
        flat = constant(f"{name}.flat", np.array([1, tokens, width], np.int64))
        return linear(f"{name}.output", op(f"{name}.flattened", "Reshape", [joined, flat]), width, embed)

    pixels = ir.Value(name="pixels", shape=ir.Shape((1, channels, image, image)), type=ir.TensorType(ir.DataType.UINT8))
    floats = op("pixels.float", "Cast", [pixels], to=int(ir.DataType.FLOAT))
    mean = constant("pixels.mean", (255 * np.linspace(0.4, 0.5, channels)).reshape(1, -1, 1, 1).astype(np.float32))
    scale = constant(
        "pixels.scale", (1 / (255 * np.linspace(0.2, 0.3, channels))).reshape(1, -1, 1, 1).astype(np.float32)
    )
    x = op("pixels.scaled", "Mul", [op("pixels.shifted", "Sub", [floats, mean]), scale])
    kernel = weights("patches.weight", embed, channels, patch, patch, spread=1.0 / np.sqrt(channels * patch * patch))
    bias = weights("patches.bias", embed, spread=0.1)
    x = op("patches", "Conv", [x, kernel, bias], kernel_shape=[patch, patch], strides=[patch, patch])
    x = op("patches.flat", "Reshape", [x, constant("patches.shape", np.array([1, embed, tokens - 1], np.int64))])
    x = op("patches.tokens", "Transpose", [x], perm=[0, 2, 1])
    x = op("tokens", "Concat", [weights("class_token", 1, 1, embed, spread=0.5), x], axis=1)
    x = op("positioned", "Add", [x, weights("positions", 1, tokens, embed, spread=0.5)])
    for index in range(layers):
        name = f"layers.{index}"
        branch = attention(f"{name}.attention", norm(f"{name}.norm1", x, embed))
        if shortcut:
            x = op(f"{name}.shortcut", "MatMul", [x, weights(f"{name}.shortcut.weight", embed, embed)])
        x = op(f"{name}.attended", "Add", [x, branch])
        hidden = linear(f"{name}.mlp.up", norm(f"{name}.norm2", x, embed), embed, mlp)
        hidden = op(f"{name}.mlp.gelu", "Gelu", [hidden], approximate=activation)
        x = op(f"{name}.result", "Add", [x, linear(f"{name}.mlp.down", hidden, mlp, embed)])
    x = norm("norm", x, embed)
    if pool == "token":
        features = op("features", "Gather", [x, constant("pool.index", np.array(0, np.int64))], axis=1)
    else:
        features = op("features", "ReduceMean", [x, constant("pool.axes", np.array([1], np.int64))], keepdims=0)
    features.dtype, features.shape = ir.DataType.FLOAT, ir.Shape((1, embed))
    graph = ir.Graph(
        [pixels], [features], nodes=tape.nodes, initializers=tape.initializers, opset_imports={"": 20}, name="member"
    )
    return ir.Model(graph, ir_version=10, producer_name="coformer")
