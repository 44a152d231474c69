"""Tiny real bundles for the tests: three devices, graphs that onnxruntime 1.10 loads, true golden vectors."""

import hashlib
import io
from itertools import combinations
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from coformer_runtime.manifest import (
    AggregatorSpec,
    AnswerSpec,
    EngineSpec,
    FileSpec,
    GoldenSpec,
    Manifest,
    TensorSpec,
    manifest_json,
)

DEVICES = ("attic", "hall", "desk")
WIDTHS = (4, 3, 2)
CLASSES = 5
PIXELS = (1, 1, 4, 4)
CASES = 3


def member_weight(member: int, pixels: Sequence[int] = PIXELS) -> np.ndarray:
    """Return the member's linear map `(pixels, d_n)` float32."""
    shape = (int(np.prod(pixels[1:])), WIDTHS[member])
    return np.random.default_rng(member).standard_normal(shape).astype(np.float32) / 100


def aggregator_weight(members: Sequence[int]) -> np.ndarray:
    """Return the aggregator's linear map `(sum of d_n, classes)` float32."""
    shape = (sum(WIDTHS[member] for member in members), CLASSES)
    return np.random.default_rng(100 + sum(1 << m for m in members)).standard_normal(shape).astype(np.float32)


def features_of(member: int, pixels: np.ndarray) -> np.ndarray:
    """Return `(batch, d_n)` float32, what the member's graph computes."""
    flat = pixels.reshape(len(pixels), -1).astype(np.float32)
    return flat @ member_weight(member, pixels.shape)


def answer_of(members: Sequence[int], pixels: np.ndarray) -> np.ndarray:
    """Return `(batch, classes)` float32, what the aggregator of these members computes."""
    joined = np.concatenate([features_of(member, pixels) for member in members], axis=1)
    return joined @ aggregator_weight(members)


def _model(nodes: List[onnx.NodeProto], inputs: list, outputs: list, weights: Dict[str, np.ndarray]) -> bytes:
    initializers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def member_graph(
    member: int,
    pixels: Sequence[int] = PIXELS,
    weight: Optional[np.ndarray] = None,
    element: int = TensorProto.UINT8,
    slow: int = 0,
) -> bytes:
    """Return the graph pixels -> Cast -> Flatten -> MatMul -> features; `slow` adds that many large MatMuls."""
    weights = {"weight": member_weight(member, pixels) if weight is None else weight}
    nodes = [
        helper.make_node("Cast", ["pixels"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["cast"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["product" if slow else "features"]),
    ]
    if slow:
        weights["loops"] = np.array(slow, np.int64)
        weights["go"] = np.array(True)
        weights["square"] = np.eye(256, dtype=np.float32)
        body = helper.make_graph(
            [
                helper.make_node("MatMul", ["state", "state"], ["next"]),
                helper.make_node("Identity", ["condition"], ["again"]),
            ],
            "body",
            [
                helper.make_tensor_value_info("round", TensorProto.INT64, []),
                helper.make_tensor_value_info("condition", TensorProto.BOOL, []),
                helper.make_tensor_value_info("state", TensorProto.FLOAT, [256, 256]),
            ],
            [
                helper.make_tensor_value_info("again", TensorProto.BOOL, []),
                helper.make_tensor_value_info("next", TensorProto.FLOAT, [256, 256]),
            ],
        )
        weights["zero"] = np.array(0, np.float32)
        nodes += [
            helper.make_node("Loop", ["loops", "go", "square"], ["final"], body=body),
            helper.make_node("ReduceMax", ["final"], ["top"], keepdims=0),
            helper.make_node("Mul", ["top", "zero"], ["nothing"]),
            helper.make_node("Add", ["product", "nothing"], ["features"]),
        ]
    return _model(
        nodes,
        [helper.make_tensor_value_info("pixels", element, pixels)],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [pixels[0], WIDTHS[member]])],
        weights,
    )


def aggregator_graph(members: Sequence[int]) -> bytes:
    """Return the graph features_i ... -> Concat -> Gemm -> logits."""
    names = ["features_{}".format(member) for member in members]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, WIDTHS[member]])
        for name, member in zip(names, members)
    ]
    nodes = [
        helper.make_node("Concat", names, ["joined"], axis=1),
        helper.make_node("Gemm", ["joined", "weight"], ["logits"]),
    ]
    return _model(
        nodes,
        inputs,
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, CLASSES])],
        {"weight": aggregator_weight(members)},
    )


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def golden_pixels(pixels: Sequence[int] = PIXELS) -> np.ndarray:
    shape = (CASES, *pixels[1:])
    return np.random.default_rng(7).integers(0, 256, shape, dtype=np.uint8)


def member_files(
    member: int, pixels: Sequence[int] = PIXELS, graph: Optional[bytes] = None, standby: Sequence[str] = ()
) -> Dict[str, bytes]:
    """Return path -> content of a bundle's files; member 0 is the central one."""
    inputs = golden_pixels(pixels)
    files = {
        "member.onnx": graph or member_graph(member, pixels),
        "golden/input.npy": npy(inputs),
        "golden/output.npy": npy(features_of(member, inputs)),
    }
    if member == 0 or DEVICES[member] in standby:
        everyone = tuple(range(len(DEVICES)))
        files["golden/answer.npy"] = npy(answer_of(everyone, inputs))
        for members in subsets():
            files[aggregator_path(members)] = aggregator_graph(members)
    return files


def subsets() -> List[Tuple[int, ...]]:
    everyone = range(len(DEVICES))
    return [members for size in range(1, len(DEVICES) + 1) for members in combinations(everyone, size)]


def aggregator_path(members: Sequence[int]) -> str:
    return "aggregators/{}.onnx".format("-".join(str(member) for member in members))


def member_manifest(
    member: int,
    files: Dict[str, bytes],
    build: str = "b" * 64,
    pixels: Sequence[int] = PIXELS,
    standby: Sequence[str] = (),
) -> Manifest:
    """Return the manifest for these files."""
    central = member == 0 or DEVICES[member] in standby
    aggregators = tuple(
        AggregatorSpec(members, aggregator_path(members), 0.9 + 0.01 * len(members)) for members in subsets()
    )
    return Manifest(
        build=build,
        policy="c" * 64,
        device=DEVICES[member],
        target="cpu",
        member=member,
        members=DEVICES,
        central=DEVICES[0],
        engine=EngineSpec("onnxruntime", "1.10.0", "member.onnx", "float32"),
        input=TensorSpec("pixels", "uint8", tuple(pixels)),
        output=TensorSpec("features", "float32", (1, WIDTHS[member])),
        answer=AnswerSpec("logits", "float32", (1, CLASSES), tuple("abcde")),
        golden=GoldenSpec("golden/input.npy", "golden/output.npy", 1e-4, "golden/answer.npy" if central else None),
        aggregators=aggregators if central else (),
        wire_bytes=4 * WIDTHS[member],
        files=tuple(
            FileSpec(path, hashlib.sha256(data).hexdigest(), len(data)) for path, data in sorted(files.items())
        ),
        standby=tuple(standby),
    )


def write_bundle(directory: Path, manifest: Manifest, files: Dict[str, bytes]) -> str:
    """Write the files and the manifest; return the directory as a text."""
    for path, data in files.items():
        target = directory.joinpath(*path.split("/"))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    (directory / "manifest.json").write_text(manifest_json(manifest), encoding="ascii")
    return str(directory)


def make_bundle(
    directory: Path,
    member: int,
    build: str = "b" * 64,
    graph: Optional[bytes] = None,
    pixels: Sequence[int] = PIXELS,
    standby: Sequence[str] = (),
) -> str:
    """Write one device's bundle and return its directory."""
    files = member_files(member, pixels, graph, standby)
    return write_bundle(directory, member_manifest(member, files, build, pixels, standby), files)


def make_cluster(
    directory: Path, build: str = "b" * 64, pixels: Sequence[int] = PIXELS, standby: Sequence[str] = ()
) -> List[str]:
    """Write the three bundles of a cluster and return their directories, the central one first."""
    return [
        make_bundle(directory / name, member, build, pixels=pixels, standby=standby)
        for member, name in enumerate(DEVICES)
    ]
